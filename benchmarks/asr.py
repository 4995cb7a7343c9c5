"""How much faster is the speech service than the plain way, and what does it cost over bare faster-whisper?

    python -m benchmarks.asr [--threads 2] [--repeats 3]

Three ways over the same audio, taking turns in one process, so that only their ratios count:

service   the real service over real gRPC (diarization measured apart);
bare      faster-whisper's own ``transcribe`` with the same weights and the same decoding options, on one reader;
plain     transformers Whisper in float32, greedy ``generate`` for every segment, as in a notebook. It gets the
          service's segments and weights of the same size with random values, and is made to write as many tokens as
          the service wrote: what is compared is time, not words. The recording mixes two languages, so the fair
          comparison lets ``generate`` detect the language of each segment, as the service does; told the language
          beforehand it is quicker. It runs with all threads and with one, and the better counts: on a busy machine
          several OpenMP threads wait for one another. It gets its segments for nothing, the service finds its own.
"""

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import structlog
import torch
import transformers
from faster_whisper import WhisperModel
from faster_whisper.audio import decode_audio
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from narrative.catalogue import Catalogue
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.v1 import asr_pb2, asr_pb2_grpc
from services.asr.__main__ import build_service
from services.asr.settings import AsrSettings

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "speech"
CHUNK_BYTES = 256 << 10


@asynccontextmanager
async def service(threads: int) -> AsyncIterator[asr_pb2_grpc.AsrServiceStub]:
    with tempfile.TemporaryDirectory() as scratch:
        settings = AsrSettings(port=0, cpu_threads=threads, scratch_dir=Path(scratch), drain_s=1)
        server = ServiceServer(build_service(settings), settings)
        port = await server.start()
        await server.load()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield asr_pb2_grpc.AsrServiceStub(channel)
        await server.stop()


def requests(path: Path, **options: object) -> Iterator[asr_pb2.TranscribeRequest]:
    yield asr_pb2.TranscribeRequest(options=asr_pb2.TranscribeOptions(filename=path.name, **options))
    data = path.read_bytes()
    for start in range(0, len(data), CHUNK_BYTES):
        yield asr_pb2.TranscribeRequest(chunk=data[start : start + CHUNK_BYTES])


async def over_grpc(
    stub: asr_pb2_grpc.AsrServiceStub, path: Path, **options: object
) -> tuple[float, list[asr_pb2.Segment]]:
    started = time.perf_counter()
    call = stub.Transcribe(requests(path, **options))
    segments = [response.segment async for response in call if response.HasField("segment")]
    return time.perf_counter() - started, segments


def bare(model: WhisperModel, path: Path, beam_size: int) -> float:
    started = time.perf_counter()
    segments, _ = model.transcribe(
        str(path),
        language="en",
        beam_size=beam_size,
        temperature=0.0,
        condition_on_previous_text=False,
        word_timestamps=True,
        vad_filter=True,
    )
    for _ in segments:
        pass
    return time.perf_counter() - started


class Plain:
    """Transformers Whisper with the shape of the weights that the service uses, and random values."""

    def __init__(self) -> None:
        transformers.logging.set_verbosity_error()
        torch.manual_seed(0)
        config = WhisperConfig(
            vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        )  # fmt: skip
        self._model = WhisperForConditionalGeneration(config).eval()
        # Special tokens as every multilingual checkpoint has them.
        special: dict[str, object] = {
            "decoder_start_token_id": 50258,
            "is_multilingual": True,
            "lang_to_id": {"<|en|>": 50259, "<|ru|>": 50263},
            "task_to_id": {"translate": 50358, "transcribe": 50359},
            "no_timestamps_token_id": 50363,
        }
        for name, value in special.items():
            setattr(self._model.generation_config, name, value)
        self._features = WhisperFeatureExtractor()

    @torch.inference_mode()
    def run(self, path: Path, segments: list[tuple[float, float, int]], language: str | None) -> float:
        """Seconds for the whole file; a segment is (start_s, end_s, tokens to write)."""
        started = time.perf_counter()
        audio = decode_audio(str(path))
        for start_s, end_s, tokens in segments:
            part = audio[int(start_s * 16_000) : int(end_s * 16_000)]
            features = self._features(part, sampling_rate=16_000, return_tensors="pt").input_features
            self._model.generate(
                features,
                language=language,
                task="transcribe",
                attention_mask=torch.ones(features.shape[0], features.shape[-1], dtype=torch.long),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
            )
        return time.perf_counter() - started


async def main(threads: int, repeats: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = AsrSettings()
    folder = Catalogue().resolve("whisper-base", settings.common.models_dir)
    torch.set_num_threads(threads)
    faster = WhisperModel(str(folder), device="cpu", compute_type=settings.compute_type, cpu_threads=threads)
    plain = Plain()
    mixed, reader = SPEECH / "mixed3.flac", SPEECH / "librivox.flac"
    seconds: dict[str, list[float]] = {name: [] for name in ("service", "no diarization", "reader", "bare")}
    for count in (threads, 1):
        seconds |= {f"plain, {count} threads": [], f"plain, told the language, {count} threads": []}
    async with service(threads) as stub:
        _, segments = await over_grpc(stub, mixed)
        tokens = [len(faster.hf_tokenizer.encode(segment.text).ids) for segment in segments]
        work = [(s.start_s, s.end_s, count) for s, count in zip(segments, tokens, strict=True)]
        bare(faster, reader, settings.beam_size)
        for _ in range(repeats):
            seconds["service"].append((await over_grpc(stub, mixed))[0])
            seconds["no diarization"].append((await over_grpc(stub, mixed, skip_diarization=True, language="en"))[0])
            for count in (threads, 1):  # The service keeps its own torch network on one.
                torch.set_num_threads(count)
                seconds[f"plain, {count} threads"].append(plain.run(mixed, work, None))
                seconds[f"plain, told the language, {count} threads"].append(plain.run(mixed, work, "en"))
            seconds["reader"].append((await over_grpc(stub, reader, skip_diarization=True, language="en"))[0])
            seconds["bare"].append(bare(faster, reader, settings.beam_size))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    plain_s, told_s = (
        min(median[f"{name}, {count} threads"] for count in (threads, 1))
        for name in ("plain", "plain, told the language")
    )
    report = {
        "threads": threads,
        "repeats": repeats,
        "median_s": {name: round(value, 2) for name, value in median.items()},
        "plain / service, three speakers, 44 s": round(plain_s / median["service"], 2),
        "plain told the language / service that detects it": round(told_s / median["service"], 2),
        "service / bare faster-whisper, one reader, 27 s": round(median["reader"] / median["bare"], 3),
        "diarization and language detection, share of the service": round(
            1 - median["no diarization"] / median["service"], 2
        ),
        "real-time factor of the service, three speakers": round(median["service"] / 44.03, 3),
        "segments": len(segments),
        "tokens": int(np.sum(tokens)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.threads, arguments.repeats))
