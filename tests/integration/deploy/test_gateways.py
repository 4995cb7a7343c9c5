"""Several gateways on one PostgreSQL, as processes: restarted one after the other, and with the database restarted."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from tests.integration.deploy.gateways import REPLICAS, gateways
from tests.integration.gateway.fakes import Script


async def test_a_rolling_restart_loses_no_story_and_draws_nothing_twice(postgres: Any, tmp_path: Path) -> None:
    script = Script(delay_s={"asr": 0.3, "prompt": 0.2, "diffusion": 0.3})
    async with gateways(script, tmp_path, postgres.get_uri()) as running:
        stopping = asyncio.Event()
        accepted: list[str] = []

        async def caller(name: str) -> None:
            while not stopping.is_set():
                accepted.append(await running.story(f"{name}-{len(accepted)}"))
                await asyncio.sleep(0.3)

        callers = asyncio.gather(*(caller(name) for name in ("a", "b")))
        for number in range(REPLICAS):
            before = len(accepted)
            while len(accepted) < before + 3:
                await asyncio.sleep(0.05)
            await running.restart(number)
        stopping.set()
        await callers
        await asyncio.gather(*(running.ends_well(one) for one in set(accepted)))

    assert len(accepted) >= 6
    assert len(set(accepted)) == len(accepted)
    # Seeds follow from the story, so a picture that was drawn again would be counted again under its seed. A picture
    # that was being drawn when its gateway went is not kept, and so is drawn by the next.
    drawn = Counter(script.pictures)
    assert len(drawn) == 2 * len(accepted)
    assert max(drawn.values()) <= 2


async def test_a_database_that_restarts_is_waited_for(postgres: Any, tmp_path: Path) -> None:
    script = Script(hold={"diffusion": asyncio.Event()})
    async with gateways(script, tmp_path, postgres.get_uri()) as running:
        narrative_id = await running.story("before")
        async with asyncio.timeout(20):
            while not script.calls["diffusion"]:
                await asyncio.sleep(0.05)

        await asyncio.to_thread(postgres.stop)
        script.hold["diffusion"].set()
        await asyncio.to_thread(postgres.start)

        await running.ends_well(narrative_id)
        await running.ends_well(await running.story("after"))
