"""One training by several processes of this machine, started from plain Python.

``VIDEO_TRAIN_PROCESSES=4 narrate train pix2pix ...`` does what ``torchrun --nproc-per-node 4`` does: each process is a
fresh interpreter (spawn) that is told its place by the variables that torch.distributed reads.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

from narrative.errors import InvalidParameter
from narrative.ports import free_port
from services.trainer.command_line import STOPPED

VARIABLE = "VIDEO_TRAIN_PROCESSES"
MAX_PROCESSES = 64
_LOOK_S = 0.1
_GRACE_S = 20.0


def wanted() -> int:
    """How many processes are asked for; 1 in a process that one of these launchers has started.

    Raises:
        InvalidParameter: the variable is no number of processes.
    """
    text = os.environ.get(VARIABLE, "1")
    if "RANK" in os.environ:
        return 1
    if not (text.isdigit() and 1 <= int(text) <= MAX_PROCESSES):
        raise InvalidParameter(f"{VARIABLE} is {text[:40]!r}; 1 to {MAX_PROCESSES} is accepted", field=VARIABLE)
    return int(text)


def run(command: Sequence[str], count: int, *, on_cpu: bool) -> int:
    """Runs a command ``count`` times together and returns its exit status; the first one's output is the output.

    SIGTERM and SIGINT are passed on to all, and what they do then is waited for; a second SIGINT ends them at once.
    Where one fails, the others are stopped.

    Raises:
        KeyboardInterrupt: at the second SIGINT.
    """
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(free_port())
    if on_cpu:
        common["ACCELERATE_USE_CPU"] = "true"
    processes: list[subprocess.Popen[bytes]] = []
    interrupted = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        del frame
        if number == signal.SIGINT:
            if interrupted:
                raise KeyboardInterrupt
            interrupted = True
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for rank in range(count):
            process = subprocess.Popen(
                command,
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.DEVNULL,
            )
            processes.append(process)
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    """The exit status: that of the first process to fail, that of a stop where none does, 0 otherwise.

    Where one fails, the others get some time to end; where one has stopped as asked, another may still be saving.
    """
    failed, deadline_s = 0, float("inf")
    while True:
        # All of them every time: a process that nobody asks seems to run for ever.
        statuses = [process.poll() for process in processes]
        if not failed and (failed := next((status for status in statuses if status not in (None, 0, STOPPED)), 0)):
            deadline_s = time.monotonic() + _GRACE_S
            for process in processes:
                process.terminate()
        if None not in statuses or time.monotonic() > deadline_s:
            return failed or max(filter(None, statuses), default=0)
        time.sleep(_LOOK_S)
