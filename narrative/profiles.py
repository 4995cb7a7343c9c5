"""Profiles: which processes run on this machine, and with which settings."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from narrative.errors import InvalidParameter, NotFound


class ProcessSpec(BaseModel):
    """One process of a profile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str = Field(description="What `python -m` runs.")
    port: str = Field(description="Environment variable that tells the process its port.")
    health: Literal["grpc", "http"] = Field(description="How it says that it is ready.")
    path: str = Field("/health", description="Path that answers 200 when ready; for http only.")


class Turn(BaseModel):
    """A model of a profile and what it needs of a device, for `narrate plan`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str = Field(description="What it does in a story.")
    model: str = Field(description="Catalogue id.")
    weight_bytes: int = Field(gt=0, description="Bytes of its weights on the device.")
    working_bytes: int = Field(ge=0, description="Bytes it needs beside them while it works.")
    story_tflop: float = Field(ge=0, description="Work of a story: a minute of speech, three speakers, a picture each.")
    story_reads: int = Field(ge=0, description="How many times its weights are read for such a story.")
    stays: bool = Field(False, description="True where its process keeps its memory whatever the others need.")

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.working_bytes

    def story_s(self, tflop_s: float, memory_gb_s: float) -> float:
        """Seconds of a story: what takes longer, the work or the reading."""
        return max(self.story_tflop / tflop_s, self.weight_bytes * self.story_reads / memory_gb_s / 1e9)


class Profile(BaseModel):
    """A set of processes and the environment they share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    processes: dict[str, ProcessSpec]
    environment: dict[str, str]
    turns: list[Turn] = Field(default_factory=list, description="Models that share a device, in the order of a story.")

    def environment_for(self, ports: dict[str, int]) -> dict[str, str]:
        """The environment with every ``{process}`` replaced by that process's port."""
        own = {spec.port: str(ports[name]) for name, spec in self.processes.items()}
        return own | {key: value.format(**ports) for key, value in self.environment.items()}


def load_profile(name: str, folder: Path | None = None) -> Profile:
    """Reads ``deploy/profiles/<name>.yaml``.

    Raises:
        NotFound: there is no such profile; names those there are.
        InvalidParameter: the file is malformed; says how.
    """
    folder = folder or _default_folder()
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise NotFound(f"no profile {name!r}; there are {', '.join(known)}", field="profile")
    path = folder / f"{name}.yaml"
    try:
        return Profile.model_validate({"name": name, **yaml.safe_load(path.read_text(encoding="utf-8"))})
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise InvalidParameter(f"{path}: not a profile: {error}", field="profile") from error


def _default_folder() -> Path:
    package = Path(__file__).parent
    installed = package / "deploy" / "profiles"
    return installed if installed.is_dir() else package.parent / "deploy" / "profiles"
