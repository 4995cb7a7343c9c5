"""Real recordings over real gRPC through whisper-base and the embedded diarizer."""

import io
import json
import re
from itertools import pairwise

import av
import jiwer
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from narrative.v1 import common_pb2, common_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")


def plain(text):
    return " ".join(re.findall(r"\w+", text.lower().replace("ё", "е").replace("mr.", "mister")))


def diarization_error_rate(reference, hypothesis, duration_s):
    """Missed, false and confused speech as a share of all speech, in frames of 10 ms, labels matched one to one."""

    def frames(spans):
        labels = sorted({label for _, _, label in spans})
        active = np.zeros((round(duration_s * 100), len(labels)), bool)
        for start_s, end_s, label in spans:
            active[round(start_s * 100) : round(end_s * 100), labels.index(label)] = True
        return active

    said, found = frames(reference), frames(hypothesis)
    shared = said.T.astype(int) @ found.astype(int)
    rows, columns = linear_sum_assignment(-shared)
    errors = np.maximum(said.sum(1), found.sum(1)).sum() - shared[rows, columns].sum()
    return errors / said.sum()


async def test_the_error_rate_counts_what_it_should():
    reference = [(0.0, 1.0, "a"), (1.0, 2.0, "b")]
    assert diarization_error_rate(reference, [(0.0, 1.0, "x"), (1.0, 2.0, "y")], 3.0) == 0
    assert diarization_error_rate(reference, [(0.0, 2.0, "x")], 3.0) == 0.5
    assert diarization_error_rate(reference, [(0.0, 1.0, "x"), (1.0, 3.0, "y")], 3.0) == 0.5


async def test_three_speakers_of_two_languages(asr, speech):
    reference = json.loads((speech / "mixed3.json").read_text(encoding="utf-8"))
    result = await asr.transcribe((speech / "mixed3.flac").read_bytes(), word_timestamps=True)

    spans = [(turn["start_s"], turn["end_s"], turn["speaker"]) for turn in reference]
    found = [(segment.start_s, segment.end_s, segment.speaker) for segment in result.segments]
    assert diarization_error_rate(spans, found, 44.1) <= 0.15
    assert list(result.summary.speakers) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    assert result.summary.duration_s == pytest.approx(44.03, abs=0.05)
    assert result.summary.language == "en"
    assert (result.summary.transcription_model, result.summary.diarization_model) == ("whisper-base", "ge2e")

    for turn in reference:
        middle_s = (turn["start_s"] + turn["end_s"]) / 2
        inside = [s for s in result.segments if turn["start_s"] < (s.start_s + s.end_s) / 2 < turn["end_s"]]
        assert {s.language for s in inside} == {"ru" if turn["speaker"] == "R" else "en"}, middle_s
        heard = plain(" ".join(s.text for s in inside))
        assert jiwer.wer(plain(turn["text"]), heard) <= 0.5, (turn["text"], heard)
    assert jiwer.wer(plain(" ".join(turn["text"] for turn in reference)), plain(result.text)) <= 0.2

    assert [segment.id for segment in result.segments] == list(range(len(result.segments)))
    assert all(before.start_s <= after.start_s for before, after in pairwise(result.segments))
    for segment in result.segments:
        assert 0 < segment.confidence <= 1
        assert segment.words[0].start_s == segment.start_s
        assert segment.words[-1].end_s == segment.end_s
        assert " ".join(word.text for word in segment.words).replace(" ", "") == segment.text.replace(" ", "")
    fractions = [fraction for _, fraction in result.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {stage for stage, _ in result.progress} == {"decoding", "speech detection", "diarization", "transcription"}


async def test_one_real_reader(asr, speech):
    result = await asr.transcribe((speech / "librivox.flac").read_bytes(), language="en")
    assert jiwer.wer(plain((speech / "librivox.txt").read_text()), plain(result.text)) <= 0.08
    assert list(result.summary.speakers) == ["SPEAKER_00"]
    assert not any(segment.words for segment in result.segments)


async def test_a_given_language_packs_speakers_together_and_cuts_them_apart_again(asr, speech):
    reference = json.loads((speech / "mixed3.json").read_text(encoding="utf-8"))
    english = excerpt(speech / "mixed3.flac", 19.4, 28.6)
    result = await asr.transcribe(english, language="en")
    texts = {speaker: plain(said(result, speaker)) for speaker in result.summary.speakers}
    assert len(texts) == 2
    expected = [plain(turn["text"]) for turn in reference if 19.4 < turn["start_s"] < 28]
    for found, wanted in zip(texts.values(), expected, strict=True):
        assert jiwer.wer(wanted, found) <= 0.2


@pytest.mark.parametrize(("options", "speakers"), [({"num_speakers": 2}, 2), ({"skip_diarization": True}, 1)])
async def test_the_number_of_speakers_can_be_given(asr, speech, options, speakers):
    result = await asr.transcribe(excerpt(speech / "mixed3.flac", 6.3, 24.3), language="en", **options)
    assert len(result.summary.speakers) == speakers


async def test_translation_comes_with_the_original(asr, speech):
    result = await asr.transcribe(excerpt(speech / "mixed3.flac", 0, 10.3), translate_to_english=True)
    russian, english = result.segments
    assert "девочка" in russian.text
    assert "girl" in russian.english_text
    assert english.english_text == english.text


@pytest.mark.parametrize(
    ("container", "codec"),
    [("ipod", "aac"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("ogg", "libopus"), ("webm", "libopus")],
)
async def test_other_containers_say_the_same(asr, speech, container, codec):
    data = excerpt(speech / "librivox.flac", 0, 7, container, codec)
    result = await asr.transcribe(data, language="en", skip_diarization=True)
    expected = (speech / "librivox.txt").read_text().split(" he was not")[0]
    assert jiwer.wer(plain(expected), plain(result.text)) <= 0.08


async def test_sampling_is_allowed(asr, speech):
    result = await asr.transcribe(excerpt(speech / "mixed3.flac", 6.4, 10.2), temperature=0.2, skip_diarization=True)
    assert "grass" in result.text


async def test_models_are_listed(asr):
    stub = common_pb2_grpc.ModelServiceStub(asr.channel)
    models = {model.id: model for model in (await stub.ListModels(common_pb2.ListModelsRequest())).models}
    assert set(models) == {"whisper-base", "ge2e"}
    assert models["whisper-base"].task == common_pb2.TASK_TRANSCRIPTION
    assert models["whisper-base"].is_default
    assert models["whisper-base"].licence == "MIT"
    assert {"en", "ru"} <= set(models["whisper-base"].languages)
    assert models["ge2e"].task == common_pb2.TASK_DIARIZATION


def said(result, speaker):
    return " ".join(segment.text for segment in result.segments if segment.speaker == speaker)


def excerpt(path, start_s, end_s, container="flac", codec="flac"):
    """Part of a recording, as a file in any container."""
    with av.open(str(path)) as source:
        rate = source.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in source.decode(audio=0)])
    part = samples[round(start_s * rate) : round(end_s * rate)].astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000 if codec == "libopus" else rate)
        frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()
