"""The ensemble under load: real processes, with real engines or with fakes of a known speed."""

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from narrative.cli.supervisor import Supervisor
from narrative.ports import free_ports
from narrative.profiles import Profile, load_profile

SERVICES = ("asr", "prompt", "translation", "diffusion")
# Seconds of work of the fakes. A story has three speakers with a picture each, so diffusion is the narrowest stage.
FAKE_S = {"asr": 0.3, "prompt": 0.1, "translation": 0.01, "diffusion": 0.2}
_READY_S = 180.0


@dataclass(frozen=True)
class Target:
    """A running gateway, and where the metrics of the processes are; none known for one that was not started here."""

    url: str
    metrics: dict[str, str]

    async def counts(self) -> dict[str, float]:
        """Every sample of the metrics we look at, by "process name{labels}"."""
        found: dict[str, float] = {}
        async with httpx.AsyncClient(timeout=5) as http:
            for process, url in self.metrics.items():
                for family in text_string_to_metric_families((await http.get(url)).text):
                    for sample in family.samples:
                        if sample.name.startswith("narrative_") and not sample.name.endswith("_bucket"):
                            labels = sample.labels.get("method", "")
                            key = f"{process} {sample.name} {labels}".strip()
                            found[key] = found.get(key, 0.0) + sample.value
        return found


@asynccontextmanager
async def running(kind: str, max_queued: int, fake_speed: float = 1.0) -> AsyncIterator[Target]:
    """Starts the processes of the embedded profile, with ``kind`` "fake" all engines replaced by fakes.

    Args:
        fake_speed: how many times as fast as ``FAKE_S`` the fakes are.
    """
    profile = load_profile("embedded")
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    environment = dict(profile.environment)
    environment |= {f"NARRATIVE_{name.upper()}__METRICS_PORT": str(port) for name, port in ports.items()}
    environment["NARRATIVE_GATEWAY__MAX_QUEUED_NARRATIVES"] = str(max_queued)
    environment["NARRATIVE_LOG_LEVEL"] = "error"
    processes = dict(profile.processes)
    if kind == "fake":
        del processes["llm"], environment["NARRATIVE_PROMPT__LLM_URL"]
        environment |= {
            "NARRATIVE_ASR__ENGINE": "fake",
            "NARRATIVE_ASR__FAKE_SERVICE_S": str(FAKE_S["asr"] / fake_speed),
            "NARRATIVE_PROMPT__ENGINE": "fake",
            "NARRATIVE_PROMPT__FAKE_SERVICE_TIME_S": str(FAKE_S["prompt"] / fake_speed),
            "NARRATIVE_TRANSLATION__ENGINES": '["fake"]',
            "NARRATIVE_TRANSLATION__FAKE_SECONDS_PER_TEXT": str(FAKE_S["translation"] / fake_speed),
            "NARRATIVE_DIFFUSION__ENGINE": "fake",
            "NARRATIVE_DIFFUSION__FAKE_BATCH_S": str(FAKE_S["diffusion"] / fake_speed),
        }
    taken = {name: value for name, value in os.environ.items() if name.startswith("NARRATIVE_")}
    assert not taken, f"these would change what is measured: {json.dumps(taken)}"
    with tempfile.TemporaryDirectory(prefix="narrative-load-") as folder:
        environment["NARRATIVE_DATA_DIR"] = folder
        chosen = Profile(name=kind, processes=processes, environment=environment)
        supervisor = Supervisor(chosen, Path(folder), 0)
        try:
            await supervisor.start()
            await supervisor.wait_ready(_READY_S)
            metrics = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()}
            yield Target(supervisor.url, metrics | {"gateway": f"{supervisor.url}/metrics"})
        finally:
            await supervisor.stop()
