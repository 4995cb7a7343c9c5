"""The recipe on a tiny Whisper with random weights: wiring, not hearing."""

import io
import json
import math
import resource
import signal

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from narrative.errors import (
    Conflict,
    DatasetInvalid,
    DiskFull,
    InvalidParameter,
    NotFound,
    WeightsError,
    WeightsMissing,
)
from services.trainer.arguments import validated
from services.trainer.failures import clear_errors
from services.trainer.progress import Progress
from services.trainer.publishing import published_speech_model
from services.trainer.recipes.whisper_lora.config import Config
from services.trainer.recipes.whisper_lora.learner import WhisperLearner, token_losses
from services.trainer.recipes.whisper_lora.train import run
from services.trainer.speech.examples import SpeechExamples, label_frame
from services.trainer.speech.publish import CARD, write_model
from services.trainer.speech.sources import Columns, open_clips
from services.trainer.speech.transformers_form import load_whisper

# peft asks transformers for something by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXTS = ("one two", "three four five", "six", "seven eight")


@pytest.fixture
def train(tmp_path, write_wav, tiny_whisper, monkeypatch):
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path / "data"))
    for number, text in enumerate(TEXTS):
        write_wav(f"clips/{number}.wav", text)

    def train(**settings):
        defaults = {
            "dataset": str(tmp_path / "clips"),
            "base_model": str(tiny_whisper),
            "output_dir": tmp_path / "adapter",
            "language": "en",
            "max_train_steps": 4,
            "train_batch_size": 2,
            "lr_warmup_steps": 0,
            "lr_scheduler": "constant",
            "rank": 2,
            "validation_share": 0.3,
            "tensorboard": False,
            "device": "cpu",
            "num_threads": 1,
        }
        said = io.StringIO()
        return run(validated(Config, defaults | settings), Progress("text", said)), said.getvalue()

    return train


def test_features_and_labels_are_what_whisper_takes(tmp_path, write_wav, tiny_whisper):
    write_wav("a.wav", "раз", duration_s=1)
    write_wav("b.wav", "раз два", duration_s=2)
    _, processor = load_whisper(tiny_whisper)
    examples = SpeechExamples(open_clips(str(tmp_path), Columns()), [0, 1], processor, "ru")
    batch = examples.collate([examples.example(0), examples.example(1)])
    assert batch["input_features"].shape == (2, 80, 3000)
    assert batch["input_features"].dtype == torch.float32
    short, long = batch["labels"].tolist()
    prefix, end = label_frame(processor, "ru")
    assert long[: len(prefix)] == short[: len(prefix)] == prefix
    assert processor.tokenizer.decode(long, skip_special_tokens=True) == " раз два"
    assert long[-1] == end
    told = short.index(-100)
    assert short[told - 1] == end
    assert set(short[told:]) == {-100}


def test_a_language_the_model_does_not_know_is_refused(tiny_whisper):
    with pytest.raises(InvalidParameter, match="language 'xx' is none this model knows"):
        label_frame(load_whisper(tiny_whisper)[1], "xx")


def test_losses_of_some_tokens_at_a_time_are_those_of_all_at_once():
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 300, bias=False)
    states, labels, weights = torch.randn(150, 16), torch.randint(300, (150,)), torch.rand(150)
    found = []
    for compute in (
        lambda x: cross_entropy(head(x), labels, reduction="none"),
        lambda x: token_losses(x, labels, head),
    ):
        head.zero_grad()
        inputs = states.clone().requires_grad_()
        losses = compute(inputs)
        (losses * weights).sum().backward()
        found.append((losses.detach(), inputs.grad, head.weight.grad))
    assert all(torch.allclose(ours, plain, rtol=1e-5, atol=1e-6) for plain, ours in zip(*found, strict=True))


def test_the_loss_of_a_clip_is_that_of_peft_given_features_and_labels(tmp_path, write_wav, tiny_whisper):
    texts = ("one two", "three four five")
    for number, text in enumerate(texts):
        write_wav(f"{number}.wav", text)
    model, processor = load_whisper(tiny_whisper)
    examples = SpeechExamples(open_clips(str(tmp_path), Columns()), [0, 1], processor, "en")
    places = {"dataset": "x", "output_dir": "y", "lora_dropout": 0.0}
    learner = WhisperLearner(model, validated(Config, places), examples).eval()
    with torch.no_grad():
        # Fresh adapters add nothing; these do.
        for name, weight in learner.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
        each = [examples.collate([examples.example(position)]) for position in range(2)]
        expected = [learner.adapted(**batch).loss for batch in each]
        with learner.adapted.disable_adapter():
            assert (learner.adapted(**each[0]).loss - expected[0]).abs() > 1e-3
        torch.testing.assert_close(torch.stack([learner(batch) for batch in each]), torch.stack(expected))
        both = learner(examples.collate([examples.example(position) for position in range(2)]))
    torch.testing.assert_close(both, torch.stack(expected).mean())


def test_what_the_layers_of_the_encoder_get_lies_in_order(tiny_whisper):
    model, _ = load_whisper(tiny_whisper)
    learner = WhisperLearner(model, validated(Config, {"dataset": "x", "output_dir": "y"}), None)
    seen = []
    # The second is the last; its own hook is called after that of the first.
    model.get_encoder().layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    learner({"input_features": torch.randn(2, 80, 3000), "labels": torch.tensor([[1, 2], [3, 4]])})
    assert seen == [True]


def test_the_loss_falls(train):
    _, said = train(max_train_steps=24, learning_rate=0.02, lora_dropout=0.0)
    losses = [float(line.split("validation loss")[0].split()[-1]) for line in said.splitlines() if "mean loss" in line]
    assert len(losses) > 6
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_base_of_the_documents_is_one_pull_away(train, tmp_path, monkeypatch):
    monkeypatch.setenv("NARRATIVE_MODELS_DIR", str(tmp_path / "models"))
    with pytest.raises(WeightsMissing, match="narrate models pull whisper-small"):
        train(base_model="whisper-small")


def test_only_queries_and_values_are_adapted_and_the_result_is_whole(train, tmp_path):
    (tmp_path / "clips" / "broken.wav").write_bytes(b"RIFF")
    result, said = train(num_train_epochs=2)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in adapter} == {"q_proj", "v_proj"}
    assert any("encoder.layers" in name for name in adapter)
    assert any(name.endswith("lora_B.weight") and value.abs().max() > 0 for name, value in adapter.items())
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "processor_config.json", "tokenizer.json", "training.json"} <= written
    assert json.loads((tmp_path / "adapter" / "data-report.json").read_text())["reasons"] == {"broken": 1}
    evaluation = json.loads((tmp_path / "adapter" / "evaluation.json").read_text())
    assert evaluation["before"]["wer"] == result.wer_before
    assert evaluation["examples"][0]["text"] in TEXTS
    assert result.clips_dropped == 1
    assert result.published is None
    assert "validation loss" in said
    assert not (tmp_path / "adapter.run" / "checkpoints").exists()


def test_the_saved_adapter_is_the_trained_one(train, tmp_path, tiny_whisper):
    train()
    model, processor = load_whisper(tiny_whisper)
    features = torch.randn(1, 80, 3000)
    start = torch.tensor([[processor.tokenizer.get_added_vocab()["<|startoftranscript|>"]]])
    with torch.inference_mode():
        base = model(input_features=features, decoder_input_ids=start).logits
        adapted = PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
        assert not torch.allclose(adapted(input_features=features, decoder_input_ids=start).logits, base)


def test_a_resumed_training_ends_with_the_same_weights(train, tmp_path):
    train(output_dir=tmp_path / "straight")
    train(output_dir=tmp_path / "parts", max_train_steps=2, checkpointing_steps=1, keep_checkpoints=True)
    _, said = train(output_dir=tmp_path / "parts")
    assert "going on from" in said
    straight, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("straight", "parts"))
    assert straight.keys() == parts.keys()
    assert all(torch.equal(straight[name], parts[name]) for name in straight)


def test_what_does_not_change_a_training_may_change_before_it_goes_on(train, tmp_path):
    train(max_train_steps=2, keep_checkpoints=True)
    result, said = train(publish_as="mine", publish_type="float32", require=["wer>=0"], validation_clips=1)
    assert "going on from" in said
    assert result.published == "mine"


def test_other_audio_is_another_training(train, tmp_path, write_wav):
    train(max_train_steps=2, keep_checkpoints=True)
    for number, text in enumerate(TEXTS):
        write_wav(f"clips/{number}.wav", text, level=0.2)
    with pytest.raises(Conflict, match="belongs to a training with data "):
        train()


def test_samples_say_what_is_heard(train, tmp_path):
    _, said = train(sample_steps=2)
    first, second = sorted((tmp_path / "adapter.run" / "samples").iterdir())
    assert (first.name, second.name) == ("step-000002-clips.txt", "step-000004-clips.txt")
    name, spoken, heard, *_ = first.read_text().splitlines()
    number = int(name.removesuffix(".wav"))
    assert spoken == f"  said:  {TEXTS[number]}"
    assert heard.startswith("  heard: ")
    assert str(first) in said


# Less than peft's notes of an adapter, and less than the adapter.
@pytest.mark.parametrize("room", [1_000, 10_000])
def test_a_disk_that_is_full_for_the_result_is_named(train, tmp_path, room):
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(DiskFull, match=f"no room to write {tmp_path / 'adapter'}: "), clear_errors():
            train(rank=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not (tmp_path / "adapter").exists()


def test_recomputed_activations_give_the_same_weights(train, tmp_path):
    train(output_dir=tmp_path / "kept")
    train(output_dir=tmp_path / "recomputed", gradient_checkpointing=True)
    kept, recomputed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("kept", "recomputed"))
    assert all(torch.allclose(kept[name], recomputed[name], atol=1e-5) for name in kept)


def test_half_precision_trains_weights_that_stay_whole(train, tmp_path):
    result, _ = train(mixed_precision="bf16")
    assert math.isfinite(result.final_loss)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}


def test_the_published_model_computes_what_the_merged_one_does(train, tmp_path, tiny_whisper):
    result, _ = train(publish_as="mine", publish_type="float32")
    assert result.published == "mine"
    folder = published_speech_model("mine")
    card = json.loads((folder / CARD).read_text())
    assert card["languages"] == ["en", "ru"]
    assert card["scores"]["wer"] == result.wer_after
    base, _ = load_whisper(tiny_whisper)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    published, processor = load_whisper(folder)
    inputs = {"input_features": torch.randn(1, 80, 3000), "decoder_input_ids": torch.arange(5)[None]}
    with torch.inference_mode():
        assert torch.allclose(published(**inputs).logits, adapted(**inputs).logits, atol=1e-4)
    assert processor.tokenizer("abc").input_ids[-4:-1] == processor.tokenizer("abc", add_special_tokens=False).input_ids
    assert not list((tmp_path / "adapter.run").glob("published-*"))


def test_requirements_that_are_not_met_keep_the_model_back(train, tmp_path):
    result, said = train(publish_as="mine", require=["cer<0", "wer>=0"])
    assert result.published is None
    assert result.unmet_requirements[0].startswith("cer<0 (measured ")
    assert len(result.unmet_requirements) == 1
    assert "not published" in said
    with pytest.raises(NotFound):
        published_speech_model("mine")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"target_modules": ["nothing"]}, InvalidParameter, "nothing"),
        ({"language": "xx"}, InvalidParameter, "language 'xx'"),
        ({"dataset": "/nowhere"}, DatasetInvalid, "/nowhere: no such file"),
        (
            {"require": ["mos>4"], "publish_as": "m"},
            InvalidParameter,
            "'mos' is not measured here; measured are wer, cer",
        ),
        ({"require": ["wer"], "publish_as": "m"}, InvalidParameter, "write for example 'wer<=0.2'"),
        ({"publish_as": "../m"}, InvalidParameter, "is no name"),
        ({"max_duration_s": 60}, InvalidParameter, "max_duration_s"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(train, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        train(**settings)
    assert not (tmp_path / "adapter").exists()


def test_a_base_of_another_kind_is_refused(train, tmp_path):
    (tmp_path / "bert").mkdir()
    with pytest.raises(WeightsError, match="holds no Whisper model"):
        train(base_model=str(tmp_path / "bert"))
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="model of type 'bert'; a Whisper model is needed"):
        train(base_model=str(tmp_path / "bert"))


def test_foreign_folders_are_not_replaced(train, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "diary.txt").write_text("dear diary")
    with pytest.raises(Conflict, match="no training has written"):
        train()


def test_quantised_and_damaged_weights_are_refused(tmp_path, tiny_whisper):
    model, processor = load_whisper(tiny_whisper)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    folder = write_model(adapted, processor, tmp_path, weights_type="int8", about={})
    with pytest.raises(WeightsError, match="quantised weights, which cannot be trained"):
        load_whisper(folder)
    weights = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="truncated or no CTranslate2 model"):
        load_whisper(folder)
    (folder / "model.bin").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(WeightsError, match="no CTranslate2 model of version 6"):
        load_whisper(folder)
