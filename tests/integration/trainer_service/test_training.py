"""The service with real trainings: its own processes, Storybook, two steps."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from narrative.errors import InvalidParameter, QueueFull
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import trainer_pb2, trainer_pb2_grpc
from services.trainer import job_messages
from services.trainer.engine import Training, TrainingStep
from services.trainer.engine_process import ProcessEngine
from services.trainer.servicer import make_service
from services.trainer.settings import TrainerSettings

SETTINGS = {"model_id": "storybook", "resolution": 64, "rank": 2, "name": "seal", "device": "cpu", "num_threads": 1}


@pytest.fixture
def palette(tmp_path: Path) -> Path:
    """A data set of three pictures in the object store."""
    folder = tmp_path / "objects" / "datasets" / "d1"
    folder.mkdir(parents=True)
    for index in range(3):
        pixels = np.full((80, 80 + 8 * index, 3), (200, 60 * index, 30), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
async def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: Path) -> AsyncIterator[Any]:
    # Trainings are processes of their own and learn of it as they would in an installation.
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    settings = TrainerSettings(common=CommonSettings(), port=0, max_queue=0)
    server = ServiceServer(make_service(settings, ProcessEngine(settings)), settings)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield trainer_pb2_grpc.TrainerServiceStub(channel)
    finally:
        await server.stop()


def request(number: int = 1, **settings: Any) -> trainer_pb2.TrainRequest:
    return trainer_pb2.TrainRequest(
        job_id=f"{number:032x}", recipe="style", settings=json.dumps(SETTINGS | settings), dataset="datasets/d1"
    )


async def test_a_training_is_told_step_by_step_and_leaves_an_adapter(stub: Any, palette: Path, tmp_path: Path) -> None:
    events = [event async for event in stub.Train(request(max_train_steps=2, log_steps=1))]

    steps = [event.step for event in events if event.WhichOneof("payload") == "step"]
    assert [(step.step, step.num_steps) for step in steps] == [(1, 2), (2, 2)]
    assert all(step.loss > 0 for step in steps)
    assert events[-1].result.adapter == "seal"
    assert json.loads(events[-1].result.measures)["finalLoss"] > 0
    adapter = await Registry(Objects(str(tmp_path / "objects")), ADAPTERS).entry("seal")
    assert adapter.description["base"] == "storybook"
    assert [file.name for file in adapter.files] == ["pytorch_lora_weights.safetensors"]
    assert list((tmp_path / "trained").iterdir()) == []


async def test_a_call_that_ends_stops_at_a_checkpoint_and_the_same_job_goes_on(stub: Any, palette: Path) -> None:
    call = stub.Train(request(max_train_steps=100_000, log_steps=1))
    async for event in call:
        if event.WhichOneof("payload") == "step":
            with pytest.raises(QueueFull), rpc_errors("trainer"):
                await stub.Train(request(2)).read()
            call.cancel()
            break

    events = await _until_a_step(stub)
    notes = [event.note.message for event in events if event.WhichOneof("payload") == "note"]
    first = next(event.step.step for event in events if event.WhichOneof("payload") == "step")
    assert first > 1
    assert any(note.startswith("going on from run/checkpoints/step-") for note in notes)


async def _until_a_step(stub: Any) -> list[Any]:
    """What the second call says until its first step; its place is taken until the first has saved its checkpoint."""
    while True:
        events: list[Any] = []
        call = stub.Train(request(max_train_steps=100_000, log_steps=1))
        try:
            with rpc_errors("trainer"):
                async for event in call:
                    events.append(event)
                    if event.WhichOneof("payload") == "step":
                        call.cancel()
                        return events
        except QueueFull:
            await asyncio.sleep(0.05)


async def test_wrong_settings_are_refused_before_anything_is_trained(stub: Any) -> None:
    check = trainer_pb2.CheckTrainingRequest(recipe="style", settings='{"rank": 0}')
    with pytest.raises(InvalidParameter) as caught, rpc_errors("trainer"):
        await stub.CheckTraining(check)
    assert caught.value.field == "rank"


async def test_a_pod_trains_with_two_processes(palette: Path, tmp_path: Path, models_dir: Path) -> None:
    """What a Job's container runs, without a cluster: one node, two processes that share the work."""
    settings = json.dumps(SETTINGS | {"max_train_steps": 2, "log_steps": 1, "train_batch_size": 2})
    training = Training(f"{7:032x}", "style", settings, "datasets/d1")
    environment = {
        **os.environ,
        "NARRATIVE_DATA_DIR": str(tmp_path),
        "NARRATIVE_TRAINER__JOB_PROCESSES": "2",
        job_messages.VARIABLE: job_messages.order(training),
        "OMP_NUM_THREADS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.trainer.job"), env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    told = [job_messages.read_line(line) for line in said.decode().splitlines()]
    assert [event.step for event in told if isinstance(event, TrainingStep)] == [1, 2]
    objects = Objects(str(tmp_path / "objects"))
    answer = json.loads(await objects.get(job_messages.result_key(training.job_id)))
    assert (answer["kind"], answer["adapter"]) == ("result", "seal")
    assert (await Registry(objects, ADAPTERS).entry("seal")).description["steps"] == 2
