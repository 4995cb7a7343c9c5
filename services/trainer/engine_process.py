"""Trainings as processes of their own: this process stays small, and what a training holds goes with it."""

import asyncio
import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from narrative.errors import (
    Cancelled,
    Conflict,
    DatasetInvalid,
    InvalidParameter,
    NarrativeError,
    OutOfMemory,
    named_error,
)
from narrative.objects import Objects
from services.trainer import recipe_settings
from services.trainer.engine import (
    Recipe,
    Training,
    TrainingCheckpoint,
    TrainingEpoch,
    TrainingEvent,
    TrainingNote,
    TrainingResult,
    TrainingSample,
    TrainingStep,
)
from services.trainer.settings import TrainerSettings

log = structlog.get_logger()
# -P: nothing is imported from the folder it runs in.
COMMAND = (sys.executable, "-P", "-m", "services.trainer.cli")
# What a training that saved a checkpoint exits with, and one that had nothing to save yet.
_STOPPED = (143, -signal.SIGTERM, -signal.SIGINT)
_LOOK_EVERY_S = 0.2
_KEPT_LINES = 50
SETTINGS_NAME = "settings.json"


class ProcessEngine:
    """Runs every training as ``services.trainer.cli RECIPE``, in a folder of its own below the trainings folder.

    Args:
        command: what to run; the recipe and its settings are added.
    """

    def __init__(self, settings: TrainerSettings, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._objects = Objects(settings.objects_url)
        self._children: set[subprocess.Popen[str]] = set()

    def load(self) -> None:
        """Makes the folders, and imports what describes the recipes, so that the first question is answered at once."""
        for folder in (self._settings.trainings_folder, self._settings.results_folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.recipes()

    def close(self) -> None:
        """Stops what runs, each at a checkpoint."""
        for child in list(self._children):
            child.terminate()
        for child in list(self._children):
            self._end(child)

    def recipes(self) -> Sequence[Recipe]:
        return recipe_settings.offered()

    def check(self, recipe: str, settings: str) -> str:
        values = recipe_settings.local_settings(recipe, settings, self._settings.trainings_folder)
        return recipe_settings.publishes(recipe, values)

    def train(self, training: Training, cancelled: threading.Event) -> Iterator[TrainingEvent]:
        """Yields what happens, the result last.

        Raises:
            NotFound, InvalidParameter: the recipe or a setting.
            DatasetInvalid: there are no such files.
            Cancelled: it was stopped, with a checkpoint saved where it had begun.
            NarrativeError: what the recipe raised.
        """
        folder = self._folder(training.job_id)
        values = recipe_settings.local_settings(training.recipe, training.settings, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", cancelled) as lock:
            if not (folder / "data").is_dir():
                asyncio.run(self._fetch(training.dataset, folder / "data", cancelled))
            _write_whole(folder / SETTINGS_NAME, json.dumps(values))
            yield from self._run(training, folder, lock, cancelled)
            for name in ("data", "run"):
                shutil.rmtree(folder / name, ignore_errors=True)

    def forget(self, job_id: str) -> None:
        folder = self._folder(job_id)
        if not folder.is_dir():
            return
        never = threading.Event()
        never.set()
        try:
            with _locked(folder / "lock", never):
                shutil.rmtree(folder, ignore_errors=True)
        except Cancelled as error:
            raise Conflict(f"training {job_id} runs; stop it before you drop it") from error

    def _folder(self, job_id: str) -> Path:
        if len(job_id) != 32 or not set(job_id) <= set("0123456789abcdef"):
            raise InvalidParameter("job_id is 32 lower-case hexadecimal digits", field="job_id")
        return self._settings.trainings_folder / job_id

    async def _fetch(self, dataset: str, folder: Path, cancelled: threading.Event) -> None:
        """Brings the files of a data set here; the folder appears when it is whole."""
        partial = folder.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        prefix = f"{dataset.strip('/')}/"
        async for key in self._objects.keys(prefix):
            name = key.removeprefix(prefix)
            target = partial / name
            if not target.resolve().is_relative_to(partial.resolve()):
                raise DatasetInvalid(f"{name}: leads out of the data set")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                async for piece in self._objects.stream(key):
                    file.write(piece)
            if cancelled.is_set():
                raise Cancelled("stopped before the training began")
        if not any(partial.iterdir()):
            partial.rmdir()
            raise DatasetInvalid(f"data set {dataset}: there are no such files", field="dataset")
        partial.rename(folder)

    def _run(self, training: Training, folder: Path, lock: int, cancelled: threading.Event) -> Iterator[TrainingEvent]:
        # The lock goes along: should this process be killed, nobody else touches the folder while the training lives.
        child = subprocess.Popen(
            [*self._command, training.recipe, "--config", str(folder / SETTINGS_NAME)],
            # A relative path in a setting leads nowhere else.
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=(lock,),
        )
        self._children.add(child)
        log.info("training", job_id=training.job_id, recipe=training.recipe, pid=child.pid)
        watcher = threading.Thread(target=self._stop_when, args=(cancelled, child), daemon=True)
        watcher.start()
        said: deque[str] = deque(maxlen=_KEPT_LINES)
        try:
            assert child.stderr is not None
            assert child.stdout is not None
            for line in child.stderr:
                event = _event(line, folder)
                if event is None:
                    said.append(line.rstrip())
                else:
                    yield event
            answer = child.stdout.read()
            yield self._result(child.wait(), answer, said, folder)
        finally:
            child.terminate()
            try:
                # Reads on, so that what it still says does not keep it from ending.
                child.communicate(timeout=self._settings.stop_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
            watcher.join()
            self._children.discard(child)

    def _stop_when(self, cancelled: threading.Event, child: subprocess.Popen[str]) -> None:
        while child.poll() is None:
            if cancelled.wait(_LOOK_EVERY_S):
                child.terminate()
                self._end(child)

    def _end(self, child: subprocess.Popen[str]) -> None:
        try:
            child.wait(self._settings.stop_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _result(self, status: int, answer: str, said: Sequence[str], folder: Path) -> TrainingResult:
        try:
            result: dict[str, Any] = json.loads(answer)
        except ValueError:
            result = {}
        if status in _STOPPED:
            raise Cancelled(_plain(result.get("error", "the training was stopped"), folder))
        if status == 0 and result.pop("success", False):
            output, adapter = Path(result.pop("outputDir")), str(result.pop("adapter", ""))
            if adapter:
                # It is in the object store.
                shutil.rmtree(output, ignore_errors=True)
            return TrainingResult(adapter, _plain(json.dumps(result), folder))
        if "error" in result:
            raise named_error(
                result.get("errorType", ""), _plain(result["error"], folder), field=result.get("field", "")
            )
        if status == -signal.SIGKILL:
            raise OutOfMemory("the training was killed, as systems do that run out of memory; lower train_batch_size")
        log.error("training broke", status=status, said=list(said))
        raise NarrativeError(f"the training ended unexpectedly, with status {status}; the trainer's log says more")


def run_along(settings_file: Path, command: Sequence[str], recipe: str, stop: threading.Event) -> int:
    """Joins a training whose first node has written its settings, in a folder that all nodes see; the exit status.

    What it says is what the first says too, so nobody listens.
    """
    while not settings_file.is_file():
        if stop.wait(_LOOK_EVERY_S):
            return 143
    child = subprocess.Popen([*command, recipe, "--config", str(settings_file)], cwd=settings_file.parent)
    while child.poll() is None:
        if stop.wait(_LOOK_EVERY_S):
            child.terminate()
            return child.wait()
    return child.returncode


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def _locked(path: Path, cancelled: threading.Event) -> Iterator[int]:
    """Holds the lock of a job's folder; waits for whoever holds it, until ``cancelled``.

    Raises:
        Cancelled: it was not free in time.
    """
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if cancelled.wait(_LOOK_EVERY_S):
                    raise Cancelled("stopped while an earlier run of the same training ended") from error
        yield file.fileno()


def _event(line: str, folder: Path) -> TrainingEvent | None:
    """What a line of the training says; None where it is no progress."""
    try:
        facts = json.loads(line)
        kind = facts.pop("event")
    except (ValueError, AttributeError, KeyError):
        return None
    if kind == "note":
        return TrainingNote(_plain(facts["message"], folder))
    if kind == "step":
        return TrainingStep(**facts)
    if kind == "epoch":
        return TrainingEpoch(**facts)
    if kind == "checkpoint":
        return TrainingCheckpoint(facts["step"])
    if kind == "sample":
        path = Path(facts["path"])
        return TrainingSample(facts["step"], path.stem.split("-", 2)[-1], path.read_bytes())
    return None


def _plain(text: str, folder: Path) -> str:
    """Paths as the caller knows them: inside the data set."""
    return (
        text.replace(f"{folder / 'data'}/", "").replace(f"{folder}/", "").replace(str(folder / "data"), "the data set")
    )
