"""Results are written beside their place and renamed at the end: whole or not at all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from narrative.errors import Conflict
from services.trainer.config import RunSettings, Settings
from services.trainer.failures import failures_to_write
from services.trainer.resume import checkpoints_dir

# In every result: what it was made of. Also what tells an earlier result from a folder of somebody's own.
DESCRIPTION_NAME = "training.json"


class Result(Settings):
    """What a training prints on standard output, in camelCase."""

    success: bool
    output_dir: Path
    epochs_completed: int
    final_loss: float | None = None


def run_folder(output_dir: Path, config: RunSettings) -> Path:
    """Where checkpoints, samples and logs of a training go."""
    return config.run_dir or output_dir.with_name(f"{output_dir.name}.run")


def refuse_foreign_folder(output_dir: Path) -> None:
    """A result replaces an earlier result, nothing else.

    Raises:
        Conflict: there is something at its place that no training has written.
    """
    if output_dir.is_dir() and ((output_dir / DESCRIPTION_NAME).is_file() or not any(output_dir.iterdir())):
        return
    if output_dir.exists():
        raise Conflict(
            f"{output_dir} holds something that no training has written; name another output_dir", field="output_dir"
        )


@contextmanager
def whole_folder(output_dir: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Gives a folder to write the result into; it takes the place of ``output_dir`` when the block ends well.

    Raises:
        Conflict: there is something at its place that no training has written.
        OSError: it could not be written whole.
    """
    refuse_foreign_folder(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with failures_to_write(output_dir):
            yield partial
        text = json.dumps(description, indent=2, ensure_ascii=False, default=str)
        (partial / DESCRIPTION_NAME).write_text(f"{text}\n", encoding="utf-8")
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def drop_checkpoints(run_dir: Path, config: RunSettings) -> None:
    """After a run that went to its end: the next one begins anew."""
    if not config.keep_checkpoints:
        shutil.rmtree(checkpoints_dir(run_dir), ignore_errors=True)
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()
