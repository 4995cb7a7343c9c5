"""Settings of the speech service; the defaults are the embedded profile."""

import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import SettingsConfigDict

from narrative.settings import TritonSettings

_DAY_S = 24 * 3600.0


class AsrSettings(TritonSettings):
    """Variables are named ``NARRATIVE_ASR__<FIELD>``; lists are written as JSON."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_ASR__", extra="ignore")

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    max_deadline_s: float = Field(
        _DAY_S,
        gt=0,
        description="Longest a call may take, in seconds, with the wait for a worker behind other long recordings. How "
        "long its work may take is for the gateway to say: NARRATIVE_GATEWAY__ASR_DEADLINE_S.",
    )
    engine: Literal["whisper", "triton", "fake"] = Field(
        "whisper",
        description="Engine; 'triton' runs 'whisper' on a Triton server; 'fake' has a fixed service time and is for "
        "load tests of the rest.",
    )

    models: list[str] = Field(
        ["whisper-base"],
        min_length=1,
        description="Transcription models in CTranslate2 form, by catalogue id or path; the first is the default.",
    )
    published_dir: Path | None = Field(
        None,
        description="Folder for copies of models that the trainer published; data_dir/speech-model-copies if unset.",
    )
    object_store_url: str = Field(
        "",
        description="Where published models are, the gateway's own folder or s3://bucket/prefix; data_dir/objects if "
        "unset.",
    )
    max_published_models: int = Field(2, ge=1, description="Published models kept in memory beside those of `models`.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where models run.")
    compute_type: str = Field(
        "int8", description="CTranslate2 type of the weights in memory: int8, float32, float16, int8_float16 ..."
    )
    cpu_threads: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, description="CPU threads of one call."
    )
    beam_size: int = Field(2, ge=1, le=16, description="Beams of the decoder at temperature 0.")
    batch_size: int = Field(
        4, ge=1, le=64, description="Most windows transcribed together: more is faster, fewer stream sooner."
    )
    min_context_s: float = Field(
        10.0,
        ge=10,
        le=30,
        description="Least audio the encoder is given, in seconds; shorter stretches are padded with silence. Whisper "
        "was trained with 30; 10 costs a third of the time for the same words. Below 10 it repeats itself.",
    )

    diarizer: Literal["embedded", "pyannote"] = Field("embedded", description="Engine that tells speakers apart.")
    diarizer_working_bytes: ByteSize = Field(
        ByteSize(256 << 20),
        description="GPU memory the diarizer needs beside its weights while it works, where it takes turns; bytes or a "
        "size like 256MiB.",
    )
    speaker_model: str = Field("ge2e", description="Speaker embedding of the embedded diarizer, catalogue id or path.")
    pyannote_pipeline: str = Field(
        "pyannote-community-1", description="pyannote pipeline, by catalogue id or path of its folder."
    )
    silhouette_threshold: float = Field(
        0.38,
        ge=-1,
        le=1,
        description="Least mean silhouette of the speaker clusters for more than one speaker. Recordings of one "
        "speaker scored up to 0.35, of several from 0.44.",
    )
    max_speakers: int = Field(8, ge=1, le=64, description="Most speakers looked for where a request sets no bound.")
    max_clustered_windows: int = Field(
        1500,
        ge=100,
        le=10_000,
        description="Most speaker embeddings that are clustered; those of a longer recording join the nearest cluster.",
    )

    max_upload_bytes: int = Field(2 << 30, ge=1, description="Largest file, in bytes.")
    max_duration_s: float = Field(4 * 3600.0, gt=0, description="Longest recording, in seconds.")
    min_sample_rate_hz: int = Field(4_000, ge=1, description="Lowest sample rate, in Hz.")
    max_sample_rate_hz: int = Field(192_000, ge=1, description="Highest sample rate, in Hz.")
    max_channels: int = Field(8, ge=1, description="Most channels.")
    scratch_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()),
        description="Folder for the upload and the decoded audio (32 kB a second) of running calls.",
    )

    triton_timeout_s: float = Field(_DAY_S, gt=0, description="Longest one request may take there, in seconds.")
    triton_model: str = Field("asr", description="Name of the model in Triton's repository.")

    fake_service_s: float = Field(0.0, ge=0, description="Seconds a call of the fake engine takes.")

    @property
    def published_models(self) -> Path:
        """The folder of copies of published models, wherever it was set."""
        return self.published_dir or self.common.data_dir / "speech-model-copies"

    @property
    def objects_url(self) -> str:
        """The object store, wherever it was set."""
        return self.object_store_url or str(self.common.data_dir / "objects")

    @field_validator("scratch_dir")
    @classmethod
    def _is_a_folder(cls, folder: Path) -> Path:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; name one that exists and can be written to")
        return folder
