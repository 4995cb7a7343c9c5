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


class Profile(BaseModel):
    """A set of processes and the environment they share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    processes: dict[str, ProcessSpec]
    environment: dict[str, str]

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
