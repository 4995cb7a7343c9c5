"""Stands for a training: tells its steps, saves its last step when asked, and ends as its settings say.

Called as `training.py RECIPE --config FILE`, like the trainer's command line.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry

settings = json.loads(Path(sys.argv[3]).read_text())
run = Path(settings["run_dir"])
run.mkdir(parents=True, exist_ok=True)
saved = run / "step"
stopping = False


def stop(number, frame):
    global stopping
    stopping = True


def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), file=sys.stderr, flush=True)


def answer(status, **facts):
    print(json.dumps(facts))
    sys.exit(status)


signal.signal(signal.SIGTERM, stop)
data = Path(settings["dataset_dir"])
print("a library warns of something", file=sys.stderr)
end = settings.get("licence", "")
if end == "refuse":
    message = f"{data / 'a.png'}: not a readable picture"
    answer(1, success=False, error=message, errorType="DatasetInvalid", field="dataset_dir")
if end == "break":
    raise RuntimeError("nobody foresaw this")
if end == "memory":
    signal.raise_signal(signal.SIGKILL)
step = int(saved.read_text()) if saved.exists() else 0
tell("note", message=f"{len(list(data.iterdir()))} files, going on from {run}/step {step}")
last = settings["max_train_steps"]
while step < last:
    step += 1
    tell("step", step=step, num_steps=last, epoch=1, loss=1 / step, rates={"all": 1e-4}, left_s=0.5)
    if end == "slow":
        time.sleep(0.02)
    if stopping:
        saved.write_text(str(step))
        tell("checkpoint", path=str(saved), step=step)
        answer(143, success=False, error=f"stopped at step {step}", errorType="Cancelled", field="")
(run / "step-000001-a_fox.png").write_bytes(b"picture")
tell("sample", path=str(run / "step-000001-a_fox.png"), step=1)
tell("epoch", epoch=1, step=step, loss=0.5, validation_loss=None)
out = run.parents[2] / "trained" / settings["name"]
out.mkdir(parents=True)
weights = out / "pytorch_lora_weights.safetensors"
weights.write_bytes(b"weights")
if end == "not good enough":
    answer(0, success=True, outputDir=str(out), epochsCompleted=1, finalLoss=0.5, unmetRequirements=["similarity>=1"])
registry = Registry(Objects(str(run.parents[2] / "objects")), ADAPTERS)
asyncio.run(registry.publish(settings["name"], {weights.name: weights}, {"base": "storybook"}))
answer(0, success=True, outputDir=str(out), epochsCompleted=1, finalLoss=0.5, adapter=settings["name"])
