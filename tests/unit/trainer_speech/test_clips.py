"""Sources, the choice of clips, and the split."""

import json

import datasets
import numpy as np
import pytest

from narrative.errors import AudioUndecodable, DatasetInvalid
from services.trainer.speech.audio import decode
from services.trainer.speech.selection import Limits, select, split
from services.trainer.speech.sources import Clip, Columns, open_clips


def words(text):
    return len(text.split())


def test_a_folder_is_read_at_any_depth_in_the_order_of_names(tmp_path, write_wav):
    write_wav("b/2.wav", "второй")
    write_wav("a/1.wav", "\ufeffпервый\n")
    write_wav("c.wav", None)
    clips = open_clips(str(tmp_path), Columns())
    assert [(clip.name, clip.text) for clip in clips] == [("a/1.wav", "первый"), ("b/2.wav", "второй"), ("c.wav", "")]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("jsonl", '{"file": "a.wav", "said": "да"}\n\n{"file": "b.wav", "said": null}\n'),
        ("csv", "file,said\na.wav,да\nb.wav,\n"),
        ("tsv", "file\tsaid\na.wav\tда\nb.wav\t\n"),
    ],
)
def test_a_manifest_names_files_beside_it(tmp_path, suffix, content):
    manifest = tmp_path / f"clips.{suffix}"
    manifest.write_text(content, encoding="utf-8")
    clips = open_clips(str(manifest), Columns("file", "said"))
    assert [(clip.audio, clip.text) for clip in clips] == [(tmp_path / "a.wav", "да"), (tmp_path / "b.wav", "")]


def test_a_saved_dataset_is_read_row_by_row(tmp_path, write_wav):
    path = write_wav("x/a.wav", None)
    rows = {
        "sound": [{"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}],
        "said": ["a", "b"],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    clips = open_clips(str(tmp_path / "saved"), Columns("sound", "said"))
    assert [clip.text for clip in clips] == ["a", "b"]
    assert all(decode(clip.audio, clip.name, max_s=30).size == 16_000 for clip in clips)
    with pytest.raises(DatasetInvalid, match="no column audio, text; it has"):
        open_clips(str(tmp_path / "saved"), Columns())
    # Somebody else may have made it: what lies elsewhere is not theirs to name.
    (tmp_path / "inbox").mkdir()
    (tmp_path / "saved").rename(tmp_path / "inbox" / "saved")
    with pytest.raises(DatasetInvalid, match=r"row 1 \(a\.wav\): .* leads out of"):
        open_clips(str(tmp_path / "inbox" / "saved"), Columns("sound", "said"))[1]


def test_a_dataset_of_a_hub_is_asked_for_by_name_and_split(write_wav, monkeypatch):
    path, asked = write_wav("a.wav", None), []

    def load_dataset(name, split):
        asked.append((name, split))
        rows = {"sound": [{"bytes": path.read_bytes(), "path": "a.wav"}], "said": [" да "]}
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (clip,) = open_clips("somebody/voices", Columns("sound", "said"), hub_split="validation")
    assert asked == [("somebody/voices", "validation")]
    assert (clip.name, clip.text) == ("row 0 (a.wav)", "да")
    assert decode(clip.audio, clip.name, max_s=30).size == 16_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", "{", "line 1: not JSON"),
        ("bad.jsonl", "[1]", "line 1: an object is needed"),
        ("bad.csv", "sound,text\na.wav,да\n", "line 2: no column 'audio'; it has sound, text"),
        ("bad.csv", "audio,text\n,да\n", 'line 2: "" names no file'),
        ("bad.csv", "audio,text\n/etc/a.wav,да\n", "line 2: '/etc/a.wav' leads out of"),
        ("bad.jsonl", '{"audio": "b/../../a.wav", "text": "да"}', "line 1: .* leads out of"),
        ("bad.csv", "audio,text\n", "lists no clips"),
        ("bad.xlsx", "", "no manifest; accepted are"),
        ("bad.csv", b"\xff\xfe\x00", "cannot be read as UTF-8"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetInvalid, match=message) as caught:
        open_clips(str(path), Columns())
    assert name in caught.value.message


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DatasetInvalid, match="no such file or folder"):
        open_clips(str(tmp_path / "nowhere"), Columns())
    with pytest.raises(DatasetInvalid, match=r"holds no audio files; accepted are \.flac"):
        open_clips(str(tmp_path), Columns())


def test_audio_is_resampled(write_wav):
    audio = decode(write_wav("a.wav", None, rate_hz=44_100, duration_s=0.5), "a", max_s=30)
    assert audio.dtype == np.float32
    assert audio.size == pytest.approx(8_000, abs=2)
    assert np.abs(audio).max() == pytest.approx(0.3, abs=0.01)


def test_decoding_stops_soon_after_the_limit(write_wav):
    audio = decode(write_wav("a.wav", None, duration_s=20), "a", max_s=1)
    assert 16_000 < audio.size < 32_000


@pytest.mark.parametrize("content", [b"", b"not audio at all" * 100])
def test_what_is_no_audio_is_named(content):
    with pytest.raises(AudioUndecodable, match=r"a\.wav cannot be decoded"):
        decode(content, "a.wav", max_s=30)


def test_unfit_clips_are_dropped_and_said_why(tmp_path, write_wav):
    write_wav("good.wav", "раз два")
    write_wav("mute.wav", "раз два", level=0)
    write_wav("short.wav", "раз", duration_s=0.2)
    write_wav("long.wav", "раз", duration_s=3)
    write_wav("dense.wav", "раз " * 20)
    write_wav("wordy.wav", "а б в г д е")
    write_wav("untold.wav", None)
    write_wav("dashes.wav", " - ")
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    clips = open_clips(str(tmp_path), Columns())
    report = select(clips, Limits(max_duration_s=2, max_tokens=5), words)
    assert [clips[index].name for index in report.kept] == ["good.wav"]
    assert report.kept_s == 1.0
    assert {name: reason.split(":")[0] for name, reason in report.dropped.items()} == {
        "mute.wav": "silent",
        "short.wav": "too short",
        "long.wav": "too long",
        "dense.wav": "text too long for the audio",
        "wordy.wav": "text too long",
        "untold.wav": "no text",
        "dashes.wav": "no text",
        "broken.wav": "broken",
    }
    summary = json.loads(json.dumps(report.as_json()))
    assert (summary["kept"], summary["dropped"], summary["reasons"]["no text"]) == (1, 8, 2)


def test_nothing_fit_is_an_error_that_says_why(tmp_path, write_wav):
    write_wav("mute.wav", "раз", level=0)
    with pytest.raises(DatasetInvalid, match=r"none of 1 clips can be used: mute\.wav: silent"):
        select(open_clips(str(tmp_path), Columns()), Limits(), words)


def clips_of(texts):
    return [Clip(f"{index}", b"", text) for index, text in enumerate(texts)]


def test_the_split_does_not_depend_on_order_or_company():
    texts = [f"предложение {index}" for index in range(400)]
    clips = clips_of(texts)
    train, validation = split(clips, range(400), validation_share=0.2, seed=1)
    assert sorted(train + validation) == list(range(400))
    assert 50 < len(validation) < 110
    held_out = {texts[index] for index in validation}
    backwards = clips_of(texts[::-1][:300])
    _, again = split(backwards, range(300), validation_share=0.2, seed=1)
    assert {backwards[index].text for index in again} == held_out & set(texts[100:])
    _, other = split(clips, range(400), validation_share=0.2, seed=2)
    assert {texts[index] for index in other} != held_out


def test_the_split_is_the_same_on_every_machine():
    """Written down, so that nothing that differs from process to process can decide it."""
    clips = clips_of([f"предложение {index}" for index in range(40)])
    assert split(clips, range(40), validation_share=0.2, seed=123)[1] == [18, 23, 25, 28, 34, 37]


def test_a_sentence_is_never_on_both_sides():
    clips = clips_of([f"Предложение {index}!" for index in range(50)] + [f"предложение {index}" for index in range(50)])
    train, validation = split(clips, range(100), validation_share=0.3, seed=0)
    assert not {index % 50 for index in train} & {index % 50 for index in validation}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(share):
    train, validation = split(clips_of(["раз", "два", "три"]), range(3), validation_share=share, seed=0)
    assert train
    assert validation


def test_clips_that_all_say_the_same_cannot_be_split():
    with pytest.raises(DatasetInvalid, match="all clips say the same"):
        split(clips_of(["Раз.", "раз"]), range(2), validation_share=0.5, seed=0)
