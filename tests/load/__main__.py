"""``python -m tests.load``: how much an ensemble bears, and what it says when that is too much.

Offers one arrival rate after the other, waits each time until all that was accepted has ended, and writes a report to
outputs/load. By default it starts the ensemble itself, on fakes of a known speed; --ensemble embedded takes the real
engines, --host one that runs already.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.load.arrivals import PROFILES
from tests.load.ensembles import Target, running
from tests.load.report import Run, markdown, svg

ROOT = Path(__file__).parents[2]
_LOOK_EVERY_S = 0.25


async def offer(target: Target, profile: str, rate: float, arrivals_s: float) -> Run:
    """One run of locust."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "samples.jsonl"
        environment = {
            **os.environ,
            "LOAD_RATE": str(rate),
            "LOAD_SECONDS": str(arrivals_s),
            "LOAD_PROFILE": profile,
            "LOAD_SAMPLES": str(kept),
            "LOAD_RECORDING": str(ROOT / "examples" / "three-voices.flac"),
        }
        run = Run(rate, arrivals_s, [], before=await target.counts())
        command = [sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).with_name("callers.py"))]
        process = await asyncio.create_subprocess_exec(
            *command, "--headless", "--users", "1", "--host", target.url, "--only-summary", "--loglevel", "ERROR",
            env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        ended = asyncio.create_task(process.communicate())
        while not ended.done():
            await asyncio.wait({ended}, timeout=_LOOK_EVERY_S)
            for key, value in (await target.counts()).items():
                if "narrative_queue_depth" in key:
                    name = key.partition(" ")[0]
                    run.peaks[name] = max(run.peaks.get(name, 0.0), value)
        if process.returncode != 0:
            raise SystemExit(f"locust ended with status {process.returncode}:\n{ended.result()[1].decode()}")
        run.after = await target.counts()
        run.samples = [json.loads(line) for line in kept.read_text().splitlines()]
        return run


@contextlib.asynccontextmanager
async def target_of(chosen: argparse.Namespace) -> AsyncIterator[Target]:
    if chosen.host:
        yield Target(chosen.host.rstrip("/"), {})
        return
    async with running(chosen.ensemble, chosen.max_queued, chosen.fake_speed) as target:
        yield target


async def measure(chosen: argparse.Namespace) -> list[Run]:
    async with target_of(chosen) as target:
        runs = []
        for rate in chosen.rates:
            print(f"{chosen.profile}: {rate:g}/s for {chosen.seconds:g} s", file=sys.stderr)
            runs.append(await offer(target, chosen.profile, rate, chosen.seconds))
        return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="stories")
    parser.add_argument("--rates", type=lambda text: [float(one) for one in text.split(",")], default=[0.5, 1, 1.5, 3])
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds for which requests arrive, at each rate")
    parser.add_argument("--ensemble", choices=["fake", "embedded"], default="fake")
    parser.add_argument("--max-queued", type=int, default=20, help="narratives that may be unfinished; then 429")
    parser.add_argument("--fake-speed", type=float, default=1.0, help="how many times as fast the fakes are")
    parser.add_argument("--host", default="", help="URL of a gateway that runs already")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "load", help="folder for the report")
    chosen = parser.parse_args()
    runs = asyncio.run(measure(chosen))
    chosen.output.mkdir(parents=True, exist_ok=True)
    name = f"{chosen.profile}-{'host' if chosen.host else chosen.ensemble}"
    (chosen.output / f"{name}.svg").write_text(svg(runs))
    text = markdown(f"Load: {chosen.profile}, {chosen.host or chosen.ensemble + ' engines'}", runs, f"{name}.svg")
    (chosen.output / f"{name}.md").write_text(text)
    print(text)
    print(f"written to {chosen.output / name}.md", file=sys.stderr)


if __name__ == "__main__":
    main()
