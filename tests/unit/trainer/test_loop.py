"""The loop on a learner of one layer: resuming, stopping, averaging, and what goes wrong."""

import io
import json
import os
import signal
from pathlib import Path

import PIL.Image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from narrative.errors import Cancelled, Conflict, DatasetInvalid, InvalidParameter, TrainingDiverged
from services.trainer import checkpoint
from services.trainer.batches import Draw
from services.trainer.config import RecipeConfig
from services.trainer.learner import Learner, Outcome
from services.trainer.loop import fit, make_accelerator
from services.trainer.progress import Progress
from services.trainer.resume import checkpoints_dir


class Line:
    """Points of a line, each read with noise of its own."""

    def __init__(self, num: int = 7) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, draw: Draw) -> torch.Tensor:
        generator = torch.Generator().manual_seed(draw.seed)
        return torch.tensor([draw.index / self.num, 0.5]) + 0.01 * torch.randn(2, generator=generator)

    def collate(self, items: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"points": torch.stack(items)}


class Fit(Learner):
    """A layer behind dropout; the target is random too, so that every source of randomness is in play."""

    def __init__(self, stop_at: int = -1, loss_scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout = torch.nn.Dropout(0.3)
        self.layer = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
        self.calls, self.stop_at, self.loss_scale = 0, stop_at, loss_scale

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        points = batch["points"]
        predicted = self.frozen(self.layer(self.dropout(points)))
        return ((predicted - points - 0.01 * torch.randn_like(points)) ** 2).mean() * self.loss_scale

    def sample(self, step: int) -> dict[str, PIL.Image.Image]:
        torch.rand(5)  # Samples may use up randomness; the training must not notice.
        return {"grey": PIL.Image.new("RGB", (8, 8), (step, step, step))}


def config(**settings: object) -> RecipeConfig:
    defaults = {
        "train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 12, "learning_rate": 0.02,
        "tensorboard": False, "device": "cpu", "progress": "json",
    }  # fmt: skip
    return RecipeConfig.model_validate(defaults | settings)


def run(
    run_dir: Path, learner: Learner, examples: Line | None = None, **settings: object
) -> tuple[Outcome, list[dict]]:
    chosen, stream = config(**settings), io.StringIO()
    try:
        outcome = fit(
            learner,
            Line() if examples is None else examples,
            chosen,
            accelerator=make_accelerator(chosen),
            run_dir=run_dir,
            progress=Progress(chosen.progress, stream),
            identity={"data": "line"},
        )
    finally:
        events = [json.loads(line) for line in stream.getvalue().splitlines()]
    return outcome, events


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_scheduler": "linear", "lr_warmup_steps": 3},
        {"optimizer": "prodigy"},
        {"ema_decay": 0.9, "lr_scheduler": "cosine"},
        {"mixed_precision": "bf16", "dataloader_num_workers": 1},
        {"sample_steps": 2, "checkpointing_steps": 3},
    ],
    ids=["linear", "prodigy", "ema", "bf16", "samples"],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path: Path, settings: dict) -> None:
    whole = Fit()
    outcome, _ = run(tmp_path / "whole", whole, **settings)

    with pytest.raises(Cancelled, match="step 6 of 12"):
        run(tmp_path / "killed", Fit(stop_at=12), **settings)
    resumed = Fit()
    resumed_outcome, events = run(tmp_path / "killed", resumed, **settings)

    assert "going on from" in events[0]["message"]
    assert resumed_outcome == outcome
    assert outcome.steps == 12
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_loss_falls_and_every_example_is_used_once_an_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    class Counted(Line):
        def __getitem__(self, draw: Draw) -> torch.Tensor:
            seen.append(draw.index)
            return super().__getitem__(draw)

    outcome, events = run(tmp_path, Fit(), Counted(7), max_train_steps=None, num_train_epochs=30)

    epochs = [event["loss"] for event in events if event["event"] == "epoch"]
    assert outcome.epochs == len(epochs) == 30
    assert outcome.steps == 60
    assert outcome.final_loss == epochs[-1] < 0.5 * epochs[0]
    for epoch in range(30):
        assert sorted(seen[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_accumulated_passes_are_one_large_batch(tmp_path: Path) -> None:
    def weights(batch: int, passes: int) -> torch.Tensor:
        learner = Fit()
        learner.dropout.p = 0.0
        learner.forward = lambda batch: ((learner.layer(batch["points"]) - 1) ** 2).mean()  # type: ignore[method-assign]
        run(tmp_path / f"{batch}", learner, train_batch_size=batch, gradient_accumulation_steps=passes)
        return learner.layer.weight.detach()

    torch.testing.assert_close(weights(4, 1), weights(1, 4))


def test_stops_early_where_nothing_gets_better(tmp_path: Path) -> None:
    outcome, _ = run(
        tmp_path, Fit(), max_train_steps=None, num_train_epochs=50, early_stop_patience=3, early_stop_min_delta=10.0
    )
    assert outcome.stopped_early
    assert outcome.epochs == 4


def test_keeps_the_last_checkpoints_and_writes_samples_and_logs(tmp_path: Path) -> None:
    _, events = run(tmp_path, Fit(), checkpointing_steps=2, sample_steps=6, tensorboard=True)

    assert sorted(path.stem for path in checkpoints_dir(tmp_path).iterdir()) == ["step-00000010", "step-00000012"]
    samples = [Path(event["path"]) for event in events if event["event"] == "sample"]
    assert [PIL.Image.open(path).getpixel((0, 0)) for path in samples] == [(6, 6, 6), (12, 12, 12)]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_what_is_trained_is_saved_once_at_the_end_and_not_trained_again(tmp_path: Path) -> None:
    whole = Fit()
    outcome, events = run(tmp_path, whole, checkpointing_steps=4, max_train_steps=8)
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [4, 8]
    outcome, events = run(tmp_path, whole, checkpointing_steps=4, max_train_steps=9)
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [9]

    again = Fit()
    repeated, events = run(tmp_path, again, checkpointing_steps=4, max_train_steps=9)
    assert (repeated, again.calls) == (outcome, 0)
    assert [event["event"] for event in events] == ["note"]
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_training_that_stopped_early_stays_at_its_end(tmp_path: Path) -> None:
    patient = {"max_train_steps": None, "num_train_epochs": 50, "early_stop_min_delta": 10.0}
    outcome, _ = run(tmp_path, Fit(), **patient, early_stop_patience=3)
    again = Fit()
    assert run(tmp_path, again, **patient, early_stop_patience=3)[0] == outcome
    assert again.calls == 0
    longer, _ = run(tmp_path, Fit(), **patient, early_stop_patience=5)
    assert longer.epochs == 6


def test_no_room_for_the_last_checkpoint_is_no_reason_to_have_trained_in_vain(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    outcome, events = run(tmp_path, Fit())
    assert outcome.steps == 12
    assert "going on to the result without it" in events[-1]["message"]


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Fit())
    (path,) = checkpoints_dir(tmp_path).iterdir()
    state = checkpoint.load(path)
    checkpoint.save(path, {**state, "identity": {**state["identity"], "num_processes": 2}})
    with pytest.raises(Conflict, match="num_processes 2, now 1"):
        run(tmp_path, Fit())


def test_texts_are_samples_too(tmp_path: Path) -> None:
    class Telling(Fit):
        def sample(self, step: int) -> dict[str, str]:
            return {"heard": f"at {step}"}

    _, events = run(tmp_path, Telling(), sample_steps=6)
    assert [path.read_text() for path in sorted((tmp_path / "samples").iterdir())] == ["at 6\n", "at 12\n"]
    told = [event["message"] for event in events if event["event"] == "note"]
    assert [message.rpartition("-")[-1] for message in told] == ["heard.txt\nat 6", "heard.txt\nat 12"]


def test_losses_and_rates_are_written_for_tensorboard(tmp_path: Path) -> None:
    _, events = run(tmp_path, Fit(), tensorboard=True, log_steps=1, lr_warmup_steps=4, lr_scheduler="linear")
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    steps = [event for event in events if event["event"] == "step"]
    losses = [event["loss"] for event in steps]
    assert [point.step for point in board.Scalars("loss")] == list(range(1, 13))
    assert [point.value for point in board.Scalars("loss")] == pytest.approx(losses)
    rates = [0.005, 0.01, 0.015, 0.02, *(0.02 * (1 - done / 8) for done in range(8))]
    assert [point.value for point in board.Scalars("learning_rate/all")] == pytest.approx(rates)
    assert [event["rates"]["all"] for event in steps] == pytest.approx(rates)
    assert len(board.Scalars("epoch_loss")) == 6


def test_a_loss_that_is_no_number_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"nan at step 1; lower learning_rate \(now 0.02\)"):
        run(tmp_path, Fit(loss_scale=float("nan")))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Fit(), checkpointing_steps=12)
    with pytest.raises(Conflict, match=r"learning_rate 0\.02, now 0\.05"):
        run(tmp_path, Fit(), learning_rate=0.05)
    outcome, _ = run(tmp_path, Fit(), learning_rate=0.05, resume_from_checkpoint="never")
    assert outcome.steps == 12
    longer, _ = run(tmp_path, Fit(), learning_rate=0.05, max_train_steps=14)
    assert longer.steps == 14
    with pytest.raises(Conflict, match="at step 14, beyond the 10 of this training"):
        run(tmp_path, Fit(), learning_rate=0.05, max_train_steps=10)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    broken = checkpoints_dir(tmp_path) / "step-00000004.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidParameter, match=r"step-00000004\.pt is not a checkpoint"):
        run(tmp_path, Fit())
    with pytest.raises(InvalidParameter, match="no such checkpoint"):
        run(tmp_path, Fit(), resume_from_checkpoint=str(tmp_path / "nowhere.pt"))


def test_no_examples(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="no examples"):
        run(tmp_path, Fit(), Line(0))


def test_a_precision_that_the_device_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="fp16 needs a GPU"):
        run(tmp_path, Fit(), mixed_precision="fp16")


def test_prodigy_takes_one_rate() -> None:
    assert config(optimizer="prodigy", learning_rate=0.5).learning_rate == 0.5
    assert RecipeConfig.model_validate({"optimizer": "prodigy"}).learning_rate == 1.0


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    checkpoint.save(path, {"step": 1})
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="could not be written") as caught:
            checkpoint.save(path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.filename == str(path)
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
