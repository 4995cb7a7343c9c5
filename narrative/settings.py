"""Settings that every process shares, and the base of each process's own settings class.

A process builds its one settings object in ``__main__.py`` and hands it down; nothing else reads the environment.
Variables are named ``NARRATIVE_<PROCESS>__<FIELD>``, those shared by all ``NARRATIVE_<FIELD>``; others are refused.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from platformdirs import user_cache_path, user_data_path
from pydantic import ByteSize, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

APP = "colorized-narrative"

S = TypeVar("S", bound=BaseSettings)
_PREFIX = "NARRATIVE_"
# Read by one process, by `narrate`, and by a training's own process.
_ELSEWHERE = frozenset({"DATABASE_URL", "URL", "API_KEY", "TRAINING"})
# Those of every process, for none is installed everywhere.
PROCESSES = ("ASR", "DIFFUSION", "GATEWAY", "LLAMA", "PROMPT", "RESIDENCY", "TRAINER", "TRANSLATION")
# Kubernetes tells every pod of the Services beside it; one may be named narrative-something.
_LINK = re.compile(r"(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)|PORT=(tcp|udp|sctp)://)")


class CommonSettings(BaseSettings):
    """Shared by every process of the ensemble."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_", extra="ignore")

    models_dir: Path = Field(
        default_factory=lambda: user_cache_path(APP) / "models", description="Folder that holds pulled weights."
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path(APP), description="Folder for stories, the job database and logs."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log.")
    log_format: Literal["console", "json"] = Field("console", description="Lines for people, or JSON for machines.")
    otlp_endpoint: str = Field(
        "", description="OTLP gRPC endpoint for traces, for example http://localhost:4317; empty turns tracing off."
    )

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown_variables(cls, values: Any) -> Any:
        """Refuses a variable that no process reads; which fields a process has is its own to judge.

        Raises:
            ValueError: the environment has one.
        """
        known = {name.upper() for name in cls.model_fields} | _ELSEWHERE
        for variable, value in os.environ.items():
            name = variable.upper().removeprefix(_PREFIX)
            if variable.upper() == name or _LINK.match(f"{name}={value}"):
                continue
            process, separator, field = name.partition("__")
            if separator and process not in PROCESSES:
                raise _unknown(variable, _PREFIX, PROCESSES, separator + field)
            if not separator and name not in known:
                raise _unknown(variable, _PREFIX, known)
        return values


class ProcessSettings(BaseSettings):
    """Base of every process's settings; a subclass sets ``env_prefix`` to ``NARRATIVE_<PROCESS>__``."""

    model_config = SettingsConfigDict(extra="ignore")

    common: CommonSettings = Field(default_factory=CommonSettings, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown_variables(cls, values: Any) -> Any:
        """A misspelt variable would otherwise do nothing, and nobody would know.

        Raises:
            ValueError: the environment has a variable with this process's prefix that is no setting.
        """
        prefix = cls.model_config.get("env_prefix", "").upper()
        known = {name.upper() for name in cls.model_fields}
        for variable in os.environ if prefix else ():
            if variable.upper().startswith(prefix) and variable.upper().removeprefix(prefix) not in known:
                raise _unknown(variable, prefix, known)
        return values


class ServiceSettings(ProcessSettings):
    """Base of the settings of every gRPC service."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_SERVICE__", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the Prometheus metrics; 0 turns them off.")
    max_workers: int = Field(1, ge=1, description="Calls that work at the same time.")
    max_queue: int = Field(32, ge=0, description="Calls that may wait for a worker; one more gets RESOURCE_EXHAUSTED.")
    max_deadline_s: float = Field(3600.0, gt=0, description="Longest a call may take, in seconds.")
    drain_s: float = Field(30.0, ge=0, description="Seconds that running calls get to finish after SIGTERM.")
    max_connection_age_s: float = Field(
        300.0, gt=0, description="Seconds after which a client must reconnect, and so finds new replicas."
    )


class LeasingSettings(ServiceSettings):
    """Base of the settings of services whose models may take turns with those of others on one device."""

    residency_target: str = Field(
        "",
        description="gRPC name of the residency service, for example 127.0.0.1:50055; models then are on the device "
        "only under a lease. Empty keeps them there for good.",
    )
    residency_wait_s: float = Field(300.0, gt=0, description="Longest wait for a lease, in seconds.")
    residency_priority: int = Field(
        0,
        ge=-10,
        le=10,
        description="Head start of its requests for memory, each point worth NARRATIVE_RESIDENCY__PRIORITY_S.",
    )
    residency_working_bytes: ByteSize = Field(
        ByteSize(1 << 30),
        description="Device memory a model needs beside its weights while it works; bytes or a size like 1GiB.",
    )


class TritonSettings(LeasingSettings):
    """Base of the settings of services that can leave the work to a Triton Inference Server."""

    triton_url: str = Field(
        "127.0.0.1:8001", description="gRPC address of the Triton Inference Server, for the engine 'triton'."
    )
    triton_model: str = Field("", description="Name of the model in its repository.")
    triton_timeout_s: float = Field(3600.0, gt=0, description="Longest one request may take there, in seconds.")
    triton_startup_wait_s: float = Field(120.0, ge=0, description="Longest wait for that server at start, in seconds.")
    triton_load_timeout_s: float = Field(
        600.0, gt=0, description="Longest it may take to load or unload the model, in seconds."
    )
    triton_bytes: ByteSize = Field(
        ByteSize(0),
        description="Device memory that the model takes on Triton, which unloads it while others need the room, if "
        "there is a residency_target; bytes or a size like 8GiB. 0 leaves it loaded.",
    )
    triton_device: str = Field(
        "cuda:0", description="Device on which Triton runs the model, as the residency service names it."
    )


def _unknown(variable: str, prefix: str, known: Iterable[str], suffix: str = "") -> ValueError:
    """The error of a variable that has, between prefix and suffix, something that is not known."""
    close = difflib.get_close_matches(variable.upper().removeprefix(prefix).removesuffix(suffix), known, 1)
    hint = f"; did you mean {prefix}{close[0]}{suffix}?" if close else "; `narrate config` lists those there are"
    return ValueError(f"{variable} is not a setting{hint}")


def read_settings(cls: type[S]) -> S:
    """Builds a process's settings; what is wrong with them ends the process with one line for each mistake."""
    try:
        return cls()
    except ValidationError as error:
        prefix = _PREFIX if error.title == CommonSettings.__name__ else cls.model_config.get("env_prefix", "")
        for problem in error.errors():
            name = f"{prefix}{'__'.join(map(str, problem['loc']))}".upper() if problem["loc"] else "settings"
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)  # noqa: T201
    except SettingsError as error:
        # Lists and tables are written as JSON; the library tells the field in its message alone.
        prefix = cls.model_config.get("env_prefix", "")
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{prefix}{field.group(1)}".upper() if field else "settings"
        print(f"{name}: not JSON: {error.__cause__ or error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None
