"""Whisper base learns from a real voice, and a running speech service hears with it."""

import asyncio
import json
import os
import shutil
import sys

import ctranslate2
import numpy as np
import torch

from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import asr_pb2, asr_pb2_grpc, common_pb2, common_pb2_grpc
from services.asr.__main__ import build_service
from services.asr.settings import AsrSettings
from services.trainer import cli
from services.trainer.evaluation.words import error_rates
from services.trainer.speech.examples import SpeechExamples, label_frame
from services.trainer.speech.recognise import transcribe
from services.trainer.speech.sources import Columns, open_clips
from services.trainer.speech.transformers_form import load_whisper


def test_weights_taken_back_from_ctranslate2_compute_the_same(models_dir, sentences):
    model, processor = load_whisper(models_dir / "whisper-base")
    examples = SpeechExamples(open_clips(str(sentences), Columns()), [7], processor, "ru")
    features = examples.example(0)["input_features"][None]
    served = ctranslate2.models.Whisper(str(models_dir / "whisper-base"), compute_type="float32", intra_threads=2)
    given = ctranslate2.StorageView.from_array(features.numpy())
    with torch.inference_mode():
        ours = model.model.encoder(features).last_hidden_state.numpy()
    theirs = np.array(served.encode(given, to_cpu=True))
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()

    prefix, _ = label_frame(processor, "ru")
    start = processor.tokenizer.get_added_vocab()["<|startoftranscript|>"]
    (answer,) = served.generate(given, [[start, *prefix]], beam_size=1)
    (text,) = transcribe(model, processor, examples, [0], language="ru", batch_size=1)
    assert text == processor.tokenizer.decode(answer.sequences_ids[0], skip_special_tokens=True).strip()
    assert error_rates([examples.text(0)], [text]).wer <= 0.2


async def narrate(*arguments, **environment):
    """Runs a command to its end; returns its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "narrative.cli.main", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def transcription_models(channel):
    answer = await common_pb2_grpc.ModelServiceStub(channel).ListModels(common_pb2.ListModelsRequest())
    return {model.id: model for model in answer.models if model.task == common_pb2.TASK_TRANSCRIPTION}


async def hear(channel, path, model):
    def requests():
        options = asr_pb2.TranscribeOptions(filename=path.name, model=model, language="ru", skip_diarization=True)
        yield asr_pb2.TranscribeRequest(options=options)
        yield asr_pb2.TranscribeRequest(chunk=path.read_bytes())

    texts, summary = [], None
    with rpc_errors("asr"):
        async for response in asr_pb2_grpc.AsrServiceStub(channel).Transcribe(requests(), timeout=120):
            kind = response.WhichOneof("payload")
            if kind == "segment":
                texts.append(response.segment.text)
            elif kind == "summary":
                summary = response.summary
    return " ".join(texts), summary


async def test_a_published_model_is_heard_with_in_the_running_service(models_dir, sentences, tmp_path, monkeypatch):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("0.wav", "0.txt", "6.wav", "6.txt"):
        shutil.copy(sentences / name, clips)
    (clips / "broken.wav").write_bytes(b"RIFF")
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path / "data"))
    settings = AsrSettings(port=0, common=CommonSettings(), cpu_threads=2, drain_s=1)
    server = ServiceServer(build_service(settings), settings)
    port = await server.start()
    try:
        await server.load()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            assert list(await transcription_models(channel)) == ["whisper-base"]
            status, out, err = await narrate(
                *("train", "whisper_lora", "--dataset", clips, "--output-dir", tmp_path / "adapter"),
                *("--publish-as", "festvox"),
                *("--max-train-steps", 2, "--train-batch-size", 1, "--lr-warmup-steps", 1, "--num-threads", 2),
            )
            assert status == 0, err
            result = json.loads(out)
            assert result["clipsDropped"] == 1
            assert result["werAfter"] <= 0.4
            assert "step 2/2" in err

            models = await transcription_models(channel)
            assert list(models) == ["whisper-base", "festvox"]
            assert not models["festvox"].is_default
            assert models["festvox"].licence == "MIT"
            assert "ru" in models["festvox"].languages
            assert set(models["festvox"].languages) <= set(models["whisper-base"].languages)
            text, summary = await hear(channel, sentences / "7.wav", "festvox")
            assert summary.transcription_model == "festvox"
            assert error_rates([(sentences / "7.txt").read_text(encoding="utf-8")], [text]).wer <= 0.3
    finally:
        await server.stop()

    status, out, err = await narrate(
        *("evaluate", "speech", "--dataset", clips, "--model", "festvox"),
        *("--language", "ru", "--require", "cer<=0.2"),
    )
    assert status == 0, err
    report = json.loads(out)
    assert report["about"]["clips"] == 2
    assert list(report["about"]["left_out"]) == ["broken.wav"]


def test_a_base_of_another_kind_is_one_line_and_nothing_is_left_behind(tmp_path, sentences, capsys):
    places = [f"--dataset={sentences}", f"--output-dir={tmp_path / 'out'}"]
    assert cli.main(["whisper_lora", *places, "--base-model=storybook"]) == 1
    out, err = capsys.readouterr()
    assert "no Whisper model" in json.loads(out)["error"]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
