"""The whole ensemble of the embedded profile, started as a user would start it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
THREE_VOICES = REPOSITORY / "examples" / "three-voices.flac"


@dataclass(frozen=True)
class Ensemble:
    """A running ensemble.

    Attributes:
        url: base URL of its gateway.
        environment: environment in which `narrate` finds it.
    """

    url: str
    environment: dict[str, str]

    def narrate(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `narrate` and returns what it wrote."""
        done = subprocess.run(
            [sys.executable, "-m", "narrative.cli.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0 or not check, f"narrate {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Ensemble]:
    data_dir = tmp_path_factory.mktemp("ensemble")
    environment = os.environ | {"NARRATIVE_DATA_DIR": str(data_dir), "COLUMNS": "200", "TERM": "dumb"}
    starting = Ensemble("", environment)
    url = starting.narrate("up", "--detach", "--port", "0").stdout.strip()
    try:
        yield Ensemble(url, environment)
    finally:
        starting.narrate("down")


@pytest.fixture
def http(ensemble: Ensemble) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=ensemble.url, timeout=60) as client:
        yield client


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path, str, float], Path]:
    """Puts the first seconds of a recording into another container; mp4 gets a picture track as well."""

    def convert(source: Path, suffix: str, duration_s: float) -> Path:
        target = tmp_path / f"{source.stem}.{suffix}"
        codec = {"mp3": "mp3", "m4a": "aac", "mp4": "aac", "ogg": "vorbis", "webm": "libopus", "wav": "pcm_s16le"}[
            suffix
        ]
        with av.open(str(source)) as recording, av.open(str(target), "w") as out:
            audio = out.add_stream(codec, rate=48_000 if codec == "libopus" else 16_000)
            if suffix == "mp4":
                video = out.add_stream("mpeg4", rate=5)
                video.width = video.height = 64
                video.pix_fmt = "yuv420p"
                for number in range(int(duration_s * 5)):
                    frame = av.VideoFrame(64, 64, "yuv420p")
                    frame.pts, frame.time_base = number, Fraction(1, 5)
                    out.mux(video.encode(frame))
                out.mux(video.encode(None))
            resampler = av.AudioResampler(format=audio.format, layout="mono", rate=audio.rate)
            for frame in recording.decode(audio=0):
                if frame.time is not None and frame.time > duration_s:
                    break
                for resampled in resampler.resample(frame):
                    out.mux(audio.encode(resampled))
            out.mux(audio.encode(None))
        return target

    return convert


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return re.findall(r"\w+", text.lower())
