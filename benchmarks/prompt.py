"""How much faster are the scenes of many speakers than one LLM call after another?

    python -m benchmarks.prompt --llm-url http://127.0.0.1:8081/v1 [--speakers 32] [--lines 3] [--concurrency 32]

Against the LLM server that is running there, and over real gRPC, for ``--speakers`` speakers of ``--lines`` lines each:

service     one ``Process`` call;
in a row    the same LLM calls, each made when the one before has ended;
notebook    the plain way of the documents: every line mended by the LLM and every scene written freely, one call after
            another, with an answer that breaks the contract refused rather than asked for again.

Every run has speakers of its own, so that no run profits from prompts the server has cached for another. Where the
server is vLLM, its own metrics tell which share of the prompts' tokens it found in its prefix cache (``cached_share``).
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import httpx
import structlog

from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.runtime.vllm import server_root
from narrative.v1 import prompt_pb2, prompt_pb2_grpc
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.llm import OpenAiLlm
from services.prompt.llm_load import read_values
from services.prompt.scene_contract import BrokenContract, free_schema, read_scene, text_schema
from services.prompt.servicer import service
from services.prompt.settings import PromptSettings
from services.prompt.templates import templates

WHO = ["girl", "boy", "fisherman", "farmer", "sailor", "painter", "baker", "gardener", "knight", "shepherd"]
DOING = ["sitting under", "running past", "sleeping near", "looking at", "drawing", "walking around"]
WHAT = ["an old oak", "a red boat", "a white house", "a stone bridge", "a small cart", "a blue door", "a tall tower"]
WHERE = ["in the garden", "by the river", "in a snowy field", "at the harbour", "on a hill", "in the narrow street"]


def speakers(count: int, lines: int, run: int) -> dict[str, list[str]]:
    """``count`` speakers of ``lines`` lines that no other ``run`` has."""
    said = [f"The {who} is {doing} {what} {where}." for who, doing, what, where in product(WHO, DOING, WHAT, WHERE)]
    step = 101  # Coprime with the number of sentences, so that the lines of a speaker have little in common.
    own = [said[(i + run * count * lines) * step % len(said)] for i in range(count * lines)]
    return {f"SPEAKER_{i:02}": own[i * lines : (i + 1) * lines] for i in range(count)}


@asynccontextmanager
async def prompt_service(settings: PromptSettings) -> AsyncIterator[Any]:
    server = ServiceServer(service(OpenAiPromptEngine(settings)), settings)
    port = await server.start()
    await server.load()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield prompt_pb2_grpc.PromptServiceStub(channel)
    await server.stop()


def prefix_cache(llm_url: str) -> tuple[float, float]:
    """Tokens that vLLM has looked up in its prefix cache so far, and how many of them it found; other servers: 0, 0."""
    text = httpx.get(f"{server_root(llm_url)}/metrics").text
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    values = read_values(text, *names)
    queries, hits = (sum(values.get(name, [])) for name in names)
    return queries, hits


async def through_service(stub: Any, people: dict[str, list[str]]) -> tuple[float, float]:
    """Seconds until the first scene and until the last."""
    lines = [prompt_pb2.Line(speaker=speaker, text=text) for speaker, said in people.items() for text in said]
    started, first_s = time.perf_counter(), 0.0
    async for item in stub.Process(prompt_pb2.ProcessRequest(lines=lines, language="en")):
        if item.HasField("speaker"):
            first_s = first_s or time.perf_counter() - started
    return first_s, time.perf_counter() - started


async def in_a_row(stub: Any, people: dict[str, list[str]]) -> float:
    started = time.perf_counter()
    for speaker, said in people.items():
        lines = [prompt_pb2.Line(speaker=speaker, text=text) for text in said]
        await stub.DescribeSpeaker(prompt_pb2.DescribeSpeakerRequest(speaker=speaker, lines=lines, language="en"))
    return time.perf_counter() - started


async def notebook(llm: OpenAiLlm, people: dict[str, list[str]]) -> tuple[float, int]:
    """Seconds, and the number of scenes that had to be refused."""
    words, refused = templates("en"), 0
    started = time.perf_counter()
    for said in people.values():
        for text in said:
            await llm.ask(words.normalize_messages(text), text_schema())
        source = "\n".join(said)
        answer = await llm.ask(words.scene_messages(source), free_schema())
        try:
            read_scene(answer, source, words.vocabulary, 0.6)
        except BrokenContract:
            refused += 1
    return time.perf_counter() - started, refused


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-url", required=True)
    parser.add_argument("--llm-model", default="smollm2-135m")
    parser.add_argument("--speakers", type=int, default=32)
    parser.add_argument("--lines", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--wording", choices=["chosen", "free"], default="chosen")
    parser.add_argument("--without-notebook", action="store_true")
    options = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    settings = PromptSettings(
        port=0,
        llm_url=options.llm_url,
        llm_model=options.llm_model,
        llm_max_concurrency=options.concurrency,
        wording=options.wording,
        llm_timeout_s=600,
        drain_s=1,
    )
    people = [speakers(options.speakers, options.lines, run) for run in range(4)]
    result: dict[str, Any] = vars(options)
    async with prompt_service(settings) as stub:
        await through_service(stub, dict(list(people[3].items())[:2]))  # Both ways after the same warm-up.
        asked, found = prefix_cache(options.llm_url)
        first_s, service_s = await through_service(stub, people[0])
        asked_then, found_then = prefix_cache(options.llm_url)
        row_s = await in_a_row(stub, people[1])
    result |= {
        "service_s": service_s,
        "first_scene_s": first_s,
        "in_a_row_s": row_s,
        "in_a_row_ratio": row_s / service_s,
    }
    if asked_then > asked:
        result["cached_share"] = (found_then - found) / (asked_then - asked)
    if not options.without_notebook:
        llm = OpenAiLlm(settings)
        notebook_s, refused = await notebook(llm, people[2])
        await llm.aclose()
        result |= {"notebook_s": notebook_s, "notebook_ratio": notebook_s / service_s, "notebook_refused": refused}
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}))


if __name__ == "__main__":
    asyncio.run(main())
