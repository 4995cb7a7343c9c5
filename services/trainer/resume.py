"""Which checkpoint a training goes on from, and whether it is one of its own."""

from pathlib import Path
from typing import Any

from narrative.errors import Conflict, InvalidParameter
from services.trainer import checkpoint


def checkpoints_dir(run_dir: Path) -> Path:
    """Where the checkpoints of a run are."""
    return run_dir / "checkpoints"


def checkpoint_to_resume(run_dir: Path, wanted: str) -> Path | None:
    """The file that ``resume_from_checkpoint`` means; None to begin anew.

    Raises:
        InvalidParameter: the named file is not there.
    """
    if wanted == "never":
        return None
    if wanted == "latest":
        return max(checkpoints_dir(run_dir).glob("step-*.pt"), default=None)
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise InvalidParameter(f"{path}: no such checkpoint", field="resume_from_checkpoint")
    return path


def steps_done(path: Path | None) -> int:
    """How far a checkpoint of the loop is, by its name; 0 where there is none, or it was renamed."""
    digits = path.stem.removeprefix("step-") if path is not None else ""
    return int(digits) if digits.isdigit() else 0


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of the loop.

    Args:
        mapped: read tensors only when they are looked at.

    Raises:
        InvalidParameter: it is none.
    """
    try:
        state = checkpoint.load(path, mapped=mapped)
        if not {"step", "identity", "trained", "optimizer"} <= state.keys():
            raise ValueError("it lacks what a training saves")
    except Exception as error:
        raise InvalidParameter(
            f"{path} is not a checkpoint of this trainer ({error}); --resume-from-checkpoint never begins anew",
            field="resume_from_checkpoint",
        ) from error
    return state


def refuse_another_training(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compares what trainings are made of.

    Raises:
        Conflict: names what differs.
    """
    changed = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
    if changed:
        what = ", ".join(f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}" for name in changed)
        raise Conflict(
            f"checkpoint {path} belongs to a training with {what}; --resume-from-checkpoint never begins anew"
        )


def refuse_a_later_step(path: Path, step: int, num_steps: int) -> None:
    """A training cannot go back: its result would be that of more steps than were asked for.

    Raises:
        Conflict: the checkpoint is beyond the last step.
    """
    if step > num_steps:
        raise Conflict(
            f"checkpoint {path} is at step {step}, beyond the {num_steps} of this training; "
            "--resume-from-checkpoint names an earlier one, or never begins anew"
        )
