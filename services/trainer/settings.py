"""Settings of this installation's trainer; those of a single training are in ``config.py``."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from narrative.settings import ProcessSettings


class TrainerSettings(ProcessSettings):
    """Read from ``NARRATIVE_TRAINER__*``."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_TRAINER__", extra="ignore")

    adapters_dir: Path | None = Field(
        None, description="Folder that trained adapters go to, the diffusion service's own; data_dir/adapters if unset."
    )

    @property
    def adapters_folder(self) -> Path:
        """The adapters folder, wherever it was set."""
        return self.adapters_dir or self.common.data_dir / "adapters"
