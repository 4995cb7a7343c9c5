"""Settings of the gateway: ``NARRATIVE_GATEWAY__<FIELD>``."""

import ipaddress
import re
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from narrative.settings import ProcessSettings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"[a-z0-9+]{2,}:/")
_STORES = ("s3://", "gs://", "az://")


class GatewaySettings(ProcessSettings):
    """Defaults are those of the embedded profile: one machine, loopback, a SQLite file, a local folder."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_GATEWAY__", extra="ignore", populate_by_name=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    drain_s: float = Field(10.0, ge=0, description="Seconds that running requests get to finish after SIGTERM.")

    api_key_hashes: list[str] = Field(
        default_factory=list, description="Hexadecimal SHA-256 of every API key that is let in, as a JSON list."
    )
    allow_anonymous: bool = Field(
        False, description="Serve other machines without keys; for a network that is closed by other means."
    )

    asr_target: str = Field("127.0.0.1:50051", description="gRPC name of the asr service.")
    prompt_target: str = Field("127.0.0.1:50052", description="gRPC name of the prompt service.")
    translation_target: str = Field("127.0.0.1:50053", description="gRPC name of the translation service.")
    diffusion_target: str = Field("127.0.0.1:50054", description="gRPC name of the diffusion service.")
    trainer_target: str = Field("", description="gRPC name of the trainer; empty where there is none.")
    residency_target: str = Field("", description="gRPC name of the residency service; empty where there is none.")
    asr_deadline_s: float = Field(7200.0, gt=0, description="Longest a transcription may take, in seconds.")
    prompt_deadline_s: float = Field(600.0, gt=0, description="Longest the description of a speaker may take.")
    translation_deadline_s: float = Field(300.0, gt=0, description="Longest a translation may take, in seconds.")
    diffusion_deadline_s: float = Field(1800.0, gt=0, description="Longest the pictures of a speaker may take.")
    adapter_deadline_s: float = Field(300.0, gt=0, description="Longest an adapter may take to come in or go out.")
    trainer_deadline_s: float = Field(7 * 24 * 3600.0, gt=0, description="Longest a training may take, in seconds.")
    list_deadline_s: float = Field(2.0, gt=0, description="Longest a question for models or health may take.")
    models_ttl_s: float = Field(30.0, ge=0, description="Seconds for which an answer about models is kept.")
    retry_window_s: float = Field(
        120.0, ge=0, description="Seconds for which a step waits for a service or an object store that is down or full."
    )

    database_url: str = Field(
        "",
        validation_alias=AliasChoices("NARRATIVE_GATEWAY__DATABASE_URL", "NARRATIVE_DATABASE_URL"),
        description="sqlite:///FILE or postgresql://...; empty for a file in the data folder. The database must exist.",
    )
    database_pool_size: int = Field(10, ge=2, description="Connections to PostgreSQL; SQLite always has two.")
    object_store_url: str = Field(
        "", description="Where bytes are kept: a folder or s3://bucket/prefix; empty for a folder in the data folder."
    )
    executor_id: str = Field(
        "gateway-0",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this process; one that restarts under the same name goes on with its jobs.",
    )

    max_concurrent_narratives: int = Field(8, ge=1, description="Narratives worked on at the same time.")
    max_concurrent_speakers: int = Field(16, ge=1, description="Speakers of all narratives worked on together.")
    max_queued_narratives: int = Field(1000, ge=1, description="Narratives this process may have unfinished; then 429.")
    max_concurrent_fine_tunes: int = Field(
        1, ge=1, description="Fine-tunes given to the trainer at the same time; others wait here."
    )
    max_queued_fine_tunes: int = Field(100, ge=1, description="Fine-tunes this process may have unfinished; then 429.")
    max_upload_bytes: int = Field(2 * 1024**3, ge=1, description="Largest recording, in bytes.")
    max_duration_s: float = Field(4 * 3600.0, gt=0, description="Longest recording, in seconds.")
    max_image_bytes: int = Field(
        20 * 1024**2, ge=1, description="Largest picture to edit, or all frames of a video together, in bytes."
    )
    max_adapter_bytes: int = Field(
        2 * 1024**3, ge=1, description="Largest LoRA file, in bytes; diffusion has a limit of its own."
    )
    max_request_bytes: int = Field(1024**2, ge=1024, description="Largest request other than an upload, in bytes.")
    upload_retention_s: float = Field(
        24 * 3600.0, gt=0, description="Seconds for which an upload, or a picture answered by URL, is kept."
    )
    story_retention_days: float = Field(
        0.0, ge=0, description="Days for which a story is kept after it has finished; 0 keeps it until it is deleted."
    )
    max_inline_audio_bytes: int = Field(
        32 * 1024**2, ge=0, description="Largest recording put into story.html; a longer one is linked."
    )
    max_dataset_bytes: int = Field(
        2 * 1024**3, ge=1, lt=4 * 1024**3, description="Largest upload of a data set, as it is sent, in bytes."
    )
    max_dataset_files: int = Field(10_000, ge=1, lt=65_535, description="Most files in a data set.")
    max_dataset_file_bytes: int = Field(512 * 1024**2, ge=1, description="Largest file in a data set, in bytes.")
    max_dataset_unpacked_bytes: int = Field(
        4 * 1024**3, ge=1, description="Largest data set once it is unpacked, in bytes."
    )
    keep_alive_s: float = Field(15.0, gt=0, description="Seconds between comments on a silent event stream.")
    event_poll_s: float = Field(
        0.5, gt=0, description="Seconds between looks for events of a narrative that another gateway works on."
    )

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        for digest in self.api_key_hashes:
            if not _SHA256.fullmatch(digest):
                raise ValueError("api_key_hashes: every entry is a SHA-256 of 64 lower-case hexadecimal digits")
        if not self.api_key_hashes and not self.allow_anonymous and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by other machines: set NARRATIVE_GATEWAY__API_KEY_HASHES, "
                "or NARRATIVE_GATEWAY__ALLOW_ANONYMOUS=true where the network is closed by other means"
            )
        # What is filled in here nobody has set.
        if not self.database_url:
            self.database_url = f"sqlite:///{self.common.data_dir / 'narratives.db'}"
            self.model_fields_set.discard("database_url")
        if not self.database_url.startswith(("sqlite:", "postgresql:", "postgres:")):
            raise ValueError("database_url starts with sqlite:// or postgresql://")
        if not self.object_store_url:
            self.object_store_url = str(self.common.data_dir / "objects")
            self.model_fields_set.discard("object_store_url")
        if _SCHEME.match(self.object_store_url) and not self.object_store_url.startswith(_STORES):
            raise ValueError("object_store_url is a folder, or starts with s3://, gs:// or az://")
        return self

    @property
    def local_folders(self) -> list[Path]:
        """Folders that must exist before the process starts."""
        folders = [self.common.data_dir]
        if self.database_url.startswith("sqlite:///"):
            folders.append(Path(self.database_url.removeprefix("sqlite:///")).parent)
        return folders


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
