"""What does the way over Triton cost, and what does it bear? The same engines in-process and there, in one run.

    python -m benchmarks.triton_engines [--services diffusion asr translation marian] [--rounds 5] [--callers 8]

Starts a Triton server (deploy/triton/serve.py) on this machine. Latency: one call after another, the two ways in turn;
load: as many callers at once, again in turn. In-process calls go through the service's own bounded executor, as they do
in the service. Prints medians and, for machines that others use too, the best and the processor time of both ends under
load; aims are <= 1.1 for latency and >= 1 for throughput. Server and engine in-process share the cores, but work one at
a time. translation is the gloss, marian the translator of the documents with random weights (CTranslate2).
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.random_weights import marian
from narrative.runtime.executor import BoundedExecutor
from services.asr.__main__ import build_engine
from services.asr.engine import TranscribeOptions
from services.asr.settings import AsrSettings
from services.diffusion.__main__ import make_engine
from services.diffusion.engine import Image, ImageRequest
from services.diffusion.settings import DiffusionSettings
from services.translation.engine_ctranslate2 import CTranslate2Engine
from services.translation.engine_gloss import GlossEngine
from services.translation.engine_triton import TritonEngine
from services.translation.settings import TranslationSettings
from tests.integration.triton.triton_server import TritonServer

MODELS = {"diffusion": "diffusion", "asr": "asr", "translation": "translation", "marian": "translation"}
"""What is measured, and the model in Triton's repository that does it."""
SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"


class Diffusion:
    """A picture of Storybook at its own size; result: the PNG."""

    unit = "pictures"
    calls_in_a_round = 1

    def __init__(self, url: str, steps: int) -> None:
        self.engines = {
            "in-process": make_engine(DiffusionSettings()),
            "triton": make_engine(DiffusionSettings(engine="triton", triton_url=url)),
        }
        self._steps = steps

    def work(self, way: str, number: int) -> object:
        request = ImageRequest("a red fox in a forest", seed=number, num_steps=self._steps)
        events = list(self.engines[way].generate(request))
        return next(event.png for event in events if isinstance(event, Image))

    async def together(self, way: str, callers: int) -> list[object]:
        # The engine queues by itself; callers are threads, as many as there are calls.
        return await asyncio.gather(*(asyncio.to_thread(self.work, way, number) for number in range(callers)))


class Asr:
    """27 s of speech; result: every event but progress."""

    unit = "recordings"
    calls_in_a_round = 1

    def __init__(self, url: str) -> None:
        self.engines = {
            "in-process": build_engine(AsrSettings()),
            "triton": build_engine(AsrSettings(engine="triton", triton_url=url)),
        }
        # The service works on max_workers recordings at a time, one by default; Triton on one an instance.
        self._executors = {"in-process": BoundedExecutor("asr", 1, 64), "triton": BoundedExecutor("asr", 64, 0)}

    def work(self, way: str, number: int) -> object:
        path = SPEECH / "librivox.flac"
        return list(self.engines[way].transcribe(path, TranscribeOptions(language="en"), threading.Event()))

    async def together(self, way: str, callers: int) -> list[object]:
        run = self._executors[way].run
        return await asyncio.gather(*(run(lambda: self.work(way, 0)) for _ in range(callers)))


class Translation:
    """Eight Russian sentences, their words in one of 64 orders; result: their English.

    Args: marian: folder of a model for CTranslate2 instead of the gloss, which takes milliseconds.
    """

    unit = "requests"

    def __init__(self, url: str, marian: str = "") -> None:
        alone = CTranslate2Engine(TranslationSettings(ctranslate2_model=marian, threads=1)) if marian else GlossEngine()
        self.engines = {"in-process": alone, "triton": TritonEngine(TranslationSettings(triton_url=url))}
        self.calls_in_a_round = 1 if marian else 50
        lines = [line.split() for line in (SPEECH / "russian.txt").read_text().splitlines() if line.strip()]
        # The engine glosses equal lines of a batch once.
        orders = map(random.Random, range(64))
        self._texts = [[" ".join(order.sample(line, len(line))) for line in lines] for order in orders]
        self._executors = {
            "in-process": BoundedExecutor("translation", 1, 64),
            "triton": BoundedExecutor("translation", 64, 0),
        }

    def work(self, way: str, number: int) -> object:
        return self.engines[way].translate(self._texts[number % len(self._texts)], "ru", "en")

    async def together(self, way: str, callers: int) -> list[object]:
        run = self._executors[way].run

        async def caller(start: int) -> list[object]:
            numbers = range(start, start + self.calls_in_a_round)
            return [await run(partial(self.work, way, number)) for number in numbers]

        return await asyncio.gather(*map(caller, range(callers)))


def measure(name: str, subject: Diffusion | Asr | Translation, server: TritonServer, rounds: int, callers: int) -> None:
    for engine in subject.engines.values():
        engine.load()
    ways = list(subject.engines)
    results = {way: subject.work(way, 0) for way in ways}
    assert results["triton"] == results["in-process"], f"{name}: Triton gives something else"
    alone: dict[str, list[float]] = {way: [] for way in ways}
    loaded: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds * subject.calls_in_a_round):
        for way in ways if number % 2 else ways[::-1]:
            started_s = time.perf_counter()
            subject.work(way, number)
            alone[way].append(time.perf_counter() - started_s)
    calls = callers * subject.calls_in_a_round
    for number in range(rounds):
        for way in ways if number % 2 else ways[::-1]:
            used_s = time.process_time() + server.processor_s()
            started_s = time.perf_counter()
            asyncio.run(subject.together(way, callers))
            loaded[way].append(calls / (time.perf_counter() - started_s))
            processor[way].append((time.process_time() + server.processor_s() - used_s) / calls)
    for engine in subject.engines.values():
        engine.close()
    print(f"{name}, the same results both ways, {rounds} rounds, {callers} callers; ratios are Triton to in-process")
    for what, aggregate in (("median", statistics.median), ("fastest", min)):
        _print(f"alone, {what}", "ms", {way: 1000 * aggregate(seconds) for way, seconds in alone.items()}, "<= 1.1")
    for what, aggregate in (("median", statistics.median), ("best", max)):
        rates = {way: aggregate(measured) for way, measured in loaded.items()}
        _print(f"together, {what}", f"{subject.unit}/s", rates, ">= 1")
    _print("processor time", "ms", {way: 1000 * statistics.median(spent) for way, spent in processor.items()}, "")


def _print(what: str, unit: str, values: dict[str, float], aim: str) -> None:
    here, there = values["in-process"], values["triton"]
    hoped = f"(aim {aim})" if aim else ""
    print(f"  {what:18}{here:10.2f} in-process {there:10.2f} Triton  {unit:14} x {there / here:.3f} {hoped}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", nargs="+", choices=MODELS, default=["diffusion", "asr", "translation"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {}
        if "marian" in options.services:
            marian(Path(folder) / "marian")
            environment = {
                "NARRATIVE_TRANSLATION__ENGINES": '["ctranslate2"]',
                "NARRATIVE_TRANSLATION__CTRANSLATE2_MODEL": f"{folder}/marian",
                "NARRATIVE_TRANSLATION__THREADS": "1",
            }
        for name in options.services:
            server = TritonServer(Path(folder) / "triton.log", environment if name == "marian" else {})
            server.start()
            subjects: dict[str, Callable[[], Diffusion | Asr | Translation]] = {
                "diffusion": partial(Diffusion, server.url, options.steps),
                "asr": partial(Asr, server.url),
                "translation": partial(Translation, server.url),
                "marian": partial(Translation, server.url, f"{folder}/marian"),
            }
            try:
                measure(name, subjects[name](), server, options.rounds, options.callers)
                server.unload(MODELS[name])
            finally:
                server.stop()


if __name__ == "__main__":
    main()
