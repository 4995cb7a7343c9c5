"""Settings of the residency service."""

import re

from pydantic import ByteSize, Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from narrative.settings import ServiceSettings
from services.residency.state import Rules

_DAYS_S = 86_400.0
_DEVICE = re.compile(r"(host|cuda):\d+")


class ResidencySettings(ServiceSettings):
    """Read from ``NARRATIVE_RESIDENCY__*``; lists and tables are written as JSON."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_RESIDENCY__", extra="ignore")

    port: int = Field(50055, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    drain_s: float = Field(0.5, ge=0, description="Seconds that running calls get to finish after SIGTERM.")
    # A connection of an owner is one call that lasts as long as the owner.
    max_deadline_s: float = Field(10 * _DAYS_S, gt=0, description="Longest an owner stays connected, in seconds.")
    max_connection_age_s: float = Field(10 * _DAYS_S, gt=0, description="Seconds after which an owner must reconnect.")

    devices: dict[str, ByteSize] = Field(
        default_factory=dict,
        description='Declared devices and their budgets, for example {"host:0": "2GiB"}: memory of this machine in '
        "place of a GPU's. Empty for the GPUs that NVML finds.",
    )
    # CUDA's own variable, so it has no prefix and is not among those that are listed.
    cuda_visible_devices: str | None = Field(
        None, validation_alias="cuda_visible_devices", exclude=True, description="GPUs that CUDA sees; None for all."
    )
    reserve_bytes: ByteSize = Field(
        ByteSize(1 << 30),
        description="Memory of each GPU left to CUDA contexts and to what small models use; bytes or a size like 1GiB.",
    )
    pinned: list[str] = Field(default_factory=list, description="Models that stay once they are on a device.")
    prefetch: dict[str, list[str]] = Field(
        default_factory=dict,
        description='Models brought in while another works, for example {"whisper-base": ["storybook"]}.',
    )
    prefetch_wait_s: float = Field(30.0, ge=0, description="Seconds within which a prefetch finds room or is given up.")

    heartbeat_s: float = Field(2.0, gt=0, description="Seconds of silence after which an owner sends a heartbeat.")
    owner_timeout_s: float = Field(10.0, gt=0, description="Seconds of silence after which an owner is disconnected.")
    grace_s: float = Field(2.0, ge=0, description="Seconds an owner has to come back before its leases end.")
    recovery_s: float = Field(3.0, ge=0, description="Seconds after the start in which owners say what they hold.")
    patience_s: float = Field(2.0, ge=0, description="Seconds for which later requests may overtake a waiting one.")
    min_resident_s: float = Field(1.0, ge=0, description="Seconds that a model stays at least once it has come.")
    offload_timeout_s: float = Field(30.0, gt=0, description="Seconds after which an offload is not waited for.")
    priority_s: float = Field(10.0, ge=0, description="Head start in seconds that a point of priority is worth.")

    @field_validator("devices")
    @classmethod
    def refuse_devices_that_no_model_can_use(cls, devices: dict[str, ByteSize]) -> dict[str, ByteSize]:
        """Engines understand two kinds of names, and a lease on a device without memory would never come.

        Raises:
            ValueError: another name, or a budget of 0.
        """
        for name, budget in devices.items():
            if not _DEVICE.fullmatch(name):
                raise ValueError(f"{name!r} is no device; devices are named host:0, host:1 or cuda:0, cuda:1")
            if budget <= 0:
                raise ValueError(f"{name} has no room for any model; a budget is bytes or a size like 2GiB")
        return devices

    @field_validator("owner_timeout_s")
    @classmethod
    def refuse_to_bury_the_living(cls, timeout_s: float, info: ValidationInfo) -> float:
        """An owner with nothing to say is heard every ``heartbeat_s``.

        Raises:
            ValueError: it would be disconnected before that.
        """
        heartbeat_s = info.data.get("heartbeat_s", 0.0)
        if timeout_s <= heartbeat_s:
            raise ValueError(f"{timeout_s:g} s is no longer than heartbeat_s ({heartbeat_s:g} s), as it has to be")
        return timeout_s

    @property
    def rules(self) -> Rules:
        """The part that the ledger needs."""
        return Rules(
            patience_s=self.patience_s,
            min_resident_s=self.min_resident_s,
            priority_s=self.priority_s,
            owner_timeout_s=self.owner_timeout_s,
            grace_s=self.grace_s,
            offload_timeout_s=self.offload_timeout_s,
            recovery_s=self.recovery_s,
        )
