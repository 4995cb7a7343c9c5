"""Settings of this installation's trainer; those of a single training are in ``config.py``."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from narrative.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Read from ``NARRATIVE_TRAINER__*``, by the service and by every training."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_TRAINER__", extra="ignore")

    results_dir: Path | None = Field(
        None, description="Folder of results of trainings without an output_dir; data_dir/trained if unset."
    )
    port: int = Field(50056, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    max_workers: int = Field(1, ge=1, description="Trainings at the same time.")
    max_deadline_s: float = Field(7 * 24 * 3600.0, gt=0, description="Longest a training may take, in seconds.")
    drain_s: float = Field(
        0.0, ge=0, description="Seconds that trainings get to finish after SIGTERM before they save a checkpoint."
    )
    stop_s: float = Field(30.0, gt=0, description="Seconds that a training gets to save a checkpoint and end.")
    trainings_dir: Path | None = Field(
        None, description="Folder for data and checkpoints of trainings; data_dir/trainings if unset."
    )
    object_store_url: str = Field(
        "",
        description="Where data sets are and adapters are published, the gateway's own folder or s3://bucket/prefix; "
        "data_dir/objects if unset.",
    )

    engine: Literal["process", "kubernetes"] = Field(
        "process", description="Where trainings run: processes beside the service, or Jobs of the cluster it is in."
    )
    job_template: str = Field(
        "training", description="Suspended CronJob from whose template Jobs are made, for engine kubernetes."
    )
    job_nodes: int = Field(1, ge=1, le=64, description="Pods of one training, for engine kubernetes.")
    job_processes: int = Field(
        1, ge=1, le=16, description="Processes of one training in each pod, as many as it has GPUs."
    )
    job_subdomain: str = Field("training", description="Headless Service by which the pods of a training find another.")
    kubernetes_url: str = Field("https://kubernetes.default.svc", description="URL of the Kubernetes API.")
    kubernetes_credentials: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Folder of token, ca.crt and namespace to speak to it with.",
    )

    @property
    def results_folder(self) -> Path:
        """The folder of results, wherever it was set."""
        return self.results_dir or self.common.data_dir / "trained"

    @property
    def trainings_folder(self) -> Path:
        """The folder of trainings, wherever it was set."""
        return self.trainings_dir or self.common.data_dir / "trainings"

    @property
    def objects_url(self) -> str:
        """The object store, wherever it was set."""
        return self.object_store_url or str(self.common.data_dir / "objects")
