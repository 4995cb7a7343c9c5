"""What a training says while it runs: lines for people or JSON lines, and TensorBoard."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal, TextIO


class Progress:
    """Writes to standard error, so that standard output holds the result alone.

    Args:
        quiet: write nothing, where another process of the same training does.
    """

    def __init__(
        self, form: Literal["text", "json"] = "text", stream: TextIO | None = None, *, quiet: bool = False
    ) -> None:
        self._form, self._quiet = form, quiet
        self._stream = stream or sys.stderr
        self._board: Any = None
        self._started_s = time.monotonic()
        self._first_step = 0

    def note(self, message: str, **facts: Any) -> None:
        """Something worth a line: what was dropped, that a run goes on, where a file is."""
        self._write("note", message, {"message": message, **facts})

    def begin(self, first_step: int, board_dir: Path | None) -> None:
        """Starts the clock, and TensorBoard where a folder is given; later points of an earlier run are dropped."""
        self._started_s, self._first_step = time.monotonic(), first_step
        if board_dir is not None:
            # Tens of megabytes that a run without it need not hold.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(board_dir), purge_step=first_step + 1)

    def step(self, step: int, num_steps: int, epoch: int, loss: float, rates: dict[str, float], *, show: bool) -> None:
        """Reports a step; ``show`` says whether it gets a line."""
        if self._board is not None:
            self._board.add_scalar("loss", loss, step)
            for name, rate in rates.items():
                self._board.add_scalar(f"learning_rate/{name}", rate, step)
        if not show:
            return
        elapsed_s = time.monotonic() - self._started_s
        left_s = elapsed_s / max(1, step - self._first_step) * (num_steps - step)
        shown = " ".join(f"{name} {rate:.2g}" for name, rate in rates.items())
        self._write(
            "step",
            f"step {step}/{num_steps}  epoch {epoch}  loss {loss:.4f}  rate {shown}  {_clock(left_s)} left",
            {"step": step, "num_steps": num_steps, "epoch": epoch, "loss": loss, "rates": rates, "left_s": left_s},
        )

    def epoch(self, epoch: int, step: int, loss: float, score: float | None) -> None:
        """Reports the mean loss of an epoch, and the validation loss where there is one."""
        if self._board is not None:
            self._board.add_scalar("epoch_loss", loss, step)
            if score is not None:
                self._board.add_scalar("validation_loss", score, step)
        validation = "" if score is None else f"  validation loss {score:.4f}"
        facts = {"epoch": epoch, "step": step, "loss": loss, "validation_loss": score}
        self._write("epoch", f"epoch {epoch}: mean loss {loss:.4f}{validation}", facts)

    def files(self, kind: Literal["checkpoint", "sample"], paths: list[Path], step: int) -> None:
        """Reports files that were written."""
        for path in paths:
            self._write(kind, f"{kind}: {path}", {"path": str(path), "step": step})

    def end(self) -> None:
        """Closes TensorBoard."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write(self, event: str, line: str, facts: dict[str, Any]) -> None:
        if self._quiet:
            return
        text = json.dumps({"event": event, **facts}) if self._form == "json" else line
        self._stream.write(f"{text}\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
