"""How much memory does a two-hour recording take?

    python -m benchmarks.asr_memory [--hours 2]

Joins a recording of three speakers to itself until it is long enough, runs the engine on it up to the first segment
(by then it is decoded, searched for speech and diarized as a whole; transcription goes window by window from there) and
prints by how much the peak of the resident memory grew. The file and the decoded audio lie on disk.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np

from services.asr.__main__ import build_engine
from services.asr.engine import Progress, Segment, TranscribeOptions
from services.asr.settings import AsrSettings

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "speech" / "mixed3.flac"


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_long(path: Path, hours: float) -> None:
    with av.open(str(SPEECH)) as source:
        rate = source.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in source.decode(audio=0)]).astype(np.int16)
    with av.open(str(path), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=rate)
        for _ in range(round(hours * 3600 * rate / samples.size)):
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def main(hours: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        write_long(path, hours)
        engine = build_engine(AsrSettings(scratch_dir=Path(folder)))
        engine.load()
        list(engine.transcribe(SPEECH, TranscribeOptions(), threading.Event()))
        before_mib, started = peak_mib(), time.perf_counter()
        stages: dict[str, float] = {}
        work = engine.transcribe(path, TranscribeOptions(), threading.Event())
        for event in work:
            if isinstance(event, Segment):
                break
            if isinstance(event, Progress):
                stages[event.stage] = round(time.perf_counter() - started, 1)
        grown_mib = peak_mib() - before_mib
    one_copy_mib = hours * 3600 * 16_000 * 4 / 2**20
    report = {
        "hours": hours,
        "peak before, MiB (models loaded, one short recording done)": round(before_mib),
        "growth of the peak, MiB": round(grown_mib, 1),
        "one float32 copy of the audio would be, MiB": round(one_copy_mib),
        "growth / one copy": round(grown_mib / one_copy_mib, 2),
        "seconds at the end of each stage": stages,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    main(parser.parse_args().hours)
