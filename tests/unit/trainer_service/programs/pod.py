"""Stands for the container of a training's pod: tells its steps as `services.trainer.job` does, ends as it is told."""

import asyncio
import json
import os
import signal
import sys
import time

from narrative.objects import Objects
from services.trainer import job_messages
from services.trainer.engine import TrainingCheckpoint, TrainingNote, TrainingSample, TrainingStep

training = job_messages.read_order(os.environ[job_messages.VARIABLE])
settings = json.loads(training.settings)
objects = Objects(os.environ["OBJECTS"])
stopping = False


def stop(number, frame):
    global stopping
    stopping = True


def tell(event):
    print(job_messages.line(event), flush=True)


def answer(status, **facts):
    asyncio.run(objects.put(job_messages.result_key(training.job_id), json.dumps(facts).encode()))
    sys.exit(status)


signal.signal(signal.SIGTERM, stop)
print("a library says something", flush=True)
tell(TrainingNote("2 files"))
end = settings.get("licence", "")
if end == "refuse":
    answer(1, kind="error", type="DatasetInvalid", message="a.png: not a readable picture", field="dataset_dir")
if end == "memory":
    signal.raise_signal(signal.SIGKILL)
if end == "break":
    sys.exit(3)
for step in range(1, settings["max_train_steps"] + 1):
    tell(TrainingStep(step, settings["max_train_steps"], 1, 1 / step, {"all": 1e-4}, 0.5))
    if stopping:
        tell(TrainingCheckpoint(step))
        sys.exit(143)
    if end == "slow":
        time.sleep(0.02)
asyncio.run(objects.put(job_messages.sample_key(training.job_id, 1, "a_fox"), b"picture"))
tell(TrainingSample(1, "a_fox", b"picture"))
answer(0, kind="result", adapter="seal", measures='{"finalLoss": 0.5}')
