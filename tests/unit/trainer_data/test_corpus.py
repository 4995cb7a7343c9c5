"""One class over every kind of data, and clean data sets built of dirty ones."""

import json
import sys
import wave
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

from narrative.errors import DatasetInvalid, InvalidParameter
from services.trainer.data import cli
from services.trainer.data.build import clean_corpus
from services.trainer.data.corpus import open_corpus
from services.trainer.pictures import videos
from services.trainer.pictures.edits import arrow_video_edits, video_edits
from services.trainer.pictures.sources import FolderSource
from services.trainer.speech.sources import Columns, open_clips


def tone(path: Path, text: str | None, *, duration_s: float = 1.0, rate_hz: int = 44_100, level: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * 32767 * np.sin(np.arange(round(duration_s * rate_hz)) * 2 * np.pi * 220 / rate_hz)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def picture(path: Path, colour: str, size: tuple[int, int] = (80, 70)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    tone(folder / "a" / "good.wav", "Сказал:  «Ёж» [шум]")
    tone(folder / "b" / "good.wav", "ещё", duration_s=2)
    tone(folder / "b" / "same.wav", "ещё", duration_s=2)
    tone(folder / "short.wav", "раз", duration_s=0.1)
    tone(folder / "untold.wav", None)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    rows = []
    for name, colour, text in (("a", "red", "a «fox»\u00a0"), ("b", "blue", ""), ("c", "red", 'a "fox"')):
        picture(folder / f"{name}.jpg", colour)
        rows.append({"file_name": f"{name}.jpg", "text": text})
    picture(folder / "tiny.png", "green", (20, 90))
    (folder / "bad.png").write_bytes(b"no picture")
    rows += [{"file_name": name, "text": "x"} for name in ("tiny.png", "bad.png")]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_one_loop_reads_sound_pictures_and_edits(tmp_path: Path) -> None:
    tone(tmp_path / "sounds" / "a.wav", "раз")
    picture(tmp_path / "pictures" / "a.png", "red")
    (tmp_path / "pictures" / "a.txt").write_text("a fox")
    for name, colour in (("before", "white"), ("after", "black")):
        picture(tmp_path / "edits" / f"{name}.png", colour)
    row = {"file_name": "before.png", "edit_prompt": "make it night", "edited_image": "after.png"}
    (tmp_path / "edits" / "metadata.jsonl").write_text(json.dumps(row))
    videos.make_mini(tmp_path / "videos", 1, 20, seed=0)

    found = {}
    for folder in ("sounds", "pictures", "edits", "videos"):
        (item,) = list(open_corpus(str(tmp_path / folder)))
        found[folder] = (item.text, None if item.sound is None else item.sound.shape, len(item.pictures))
    assert found == {
        "sounds": ("раз", (16_000,), 0),
        "pictures": ("a fox", None, 1),
        "edits": ("make it night", None, 2),
        "videos": ("drop_object", None, 21),
    }
    (edit,) = open_corpus(str(tmp_path / "edits"))
    assert [one.getpixel((0, 0)) for one in edit.pictures] == [(255, 255, 255), (0, 0, 0)]


def test_nothing_is_opened_before_it_is_asked_for(sounds: Path, pictures: Path) -> None:
    for folder, bad in ((sounds, "broken.wav"), (pictures, "bad.png")):
        corpus = open_corpus(str(folder))
        names = [Path(name).name for name in corpus.names]
        assert len(corpus) == len(names) > 4
        good = corpus[names.index(next(name for name in names if name != bad))]
        assert good.sound is not None or good.pictures
        with pytest.raises(Exception, match=bad):
            corpus[names.index(bad)]


def test_sound_is_cleaned_into_one_form(sounds: Path, tmp_path: Path) -> None:
    cleaning = clean_corpus(open_corpus(str(sounds)), tmp_path / "clean")
    assert (cleaning.kept, cleaning.kept_s, cleaning.mended) == (2, 3.0, 1)
    assert {name: reason.split(":")[0] for name, reason in cleaning.dropped.items()} == {
        "b/same.wav": "a second time",
        "broken.wav": "broken",
        "short.wav": "too short",
        "untold.wav": "no text",
    }
    clips = open_clips(str(tmp_path / "clean"), Columns())
    assert [(clip.name, clip.text) for clip in clips] == [("000000.wav", 'Сказал: "Ёж"'), ("000001.wav", "ещё")]
    with wave.open(str(tmp_path / "clean" / "000001.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 32_000)
        samples = np.frombuffer(file.readframes(32_000), "<i2")
    assert samples.max() == pytest.approx(0.3 * 32767, rel=0.02)
    report = json.loads((tmp_path / "clean" / "data-report.json").read_text())
    assert report == cleaning.as_json()
    assert report["reasons"] == {"a second time": 1, "broken": 1, "too short": 1, "no text": 1}
    # What is clean stays as it is.
    again = clean_corpus(open_corpus(str(tmp_path / "clean")), tmp_path / "again")
    assert (again.kept, again.mended, again.dropped) == (2, 0, {})
    assert (tmp_path / "again" / "000001.wav").read_bytes() == (tmp_path / "clean" / "000001.wav").read_bytes()


def test_pictures_are_cleaned_into_one_form(pictures: Path, tmp_path: Path) -> None:
    cleaning = clean_corpus(open_corpus(str(pictures)), tmp_path / "clean")
    assert {Path(name).name: reason.split(":")[0] for name, reason in cleaning.dropped.items()} == {
        "c.jpg": "a second time",
        "tiny.png": "too small",
        "bad.png": "broken",
    }
    source = FolderSource(tmp_path / "clean")
    assert [source.caption(index) for index in range(len(source))] == ['a "fox"', ""]
    red, blue = (source.picture(index).getpixel((5, 5)) for index in range(2))
    assert red[0] > 240 > 20 > red[2]
    assert blue[2] > 240 > 20 > blue[0]


def test_what_lies_with_listed_pictures_is_reported(pictures: Path) -> None:
    good = next(path for path in sorted(pictures.rglob("*.jpg")))
    row = {"file_name": str(good.relative_to(pictures)), "text": "a fox"}
    (pictures / "metadata.jsonl").write_text(json.dumps(row))
    cleaning = clean_corpus(open_corpus(str(pictures)))
    assert cleaning.kept == 1
    assert "tiny.png" in {Path(name).name for name in cleaning.dropped}
    assert set(cleaning.dropped.values()) == {"not in metadata.jsonl"}


def test_captions_that_fit_no_picture_are_no_licence(tmp_path: Path) -> None:
    for name in ("a", "b"):
        PIL.Image.new("RGB", (80, 80)).save(tmp_path / f"{name}.png")
    (tmp_path / "licence.txt").write_text("CC0")
    assert FolderSource(tmp_path).caption(0) is None
    (tmp_path / "other.txt").write_text("a fox")
    with pytest.raises(DatasetInvalid, match=r"2 \.txt files, but none has the name of a picture"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "собака".encode("cp1251"), "a.txt cannot be read as UTF-8"),
        ("metadata.jsonl", "собака".encode("cp1251"), "metadata.jsonl cannot be read as UTF-8"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": null}', "line 1: 'text' is null, a text is needed"),
        ("metadata.jsonl", b'{"file_name": null, "text": "a"}', "line 1: null names no file"),
        ("metadata.jsonl", b'{"file_name": "../a.png", "text": "a"}', "'../a.png' leads out of"),
        ("metadata.jsonl", b'{"file_name": "/etc/a.png", "text": "a"}', "'/etc/a.png' leads out of"),
    ],
)
def test_captions_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    PIL.Image.new("RGB", (80, 80)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetInvalid, match=message):
        FolderSource(tmp_path)


@pytest.mark.parametrize("column", ["input_image", "edited_image"])
@pytest.mark.parametrize("outside", ["/etc/hostname", "../secret.png"])
def test_edits_lead_to_no_picture_outside_their_folder(tmp_path: Path, column: str, outside: str) -> None:
    folder = tmp_path / "edits"
    folder.mkdir()
    for path in (folder / "a.png", tmp_path / "secret.png"):
        PIL.Image.new("RGB", (80, 80)).save(path)
    row = {"input_image": "a.png", "edit_prompt": "night", "edited_image": "a.png"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert len(open_corpus(str(folder))) == 1
    (folder / "metadata.jsonl").write_text(json.dumps(row | {column: outside}))
    with pytest.raises(DatasetInvalid, match=r"line 1: .* leads out of"):
        open_corpus(str(folder))


def test_videos_lie_in_the_folder_that_lists_them(tmp_path: Path) -> None:
    videos.make_mini(tmp_path / "elsewhere" / "videos", 1, 2, 0)
    (tmp_path / "set").mkdir()
    rows = [{"video_path": "../elsewhere/videos/0000", "instruction": "drop_object"}]
    (tmp_path / "set" / "metadata.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetInvalid, match=r"video 0: .* leads out of"):
        video_edits(tmp_path / "set", 2)
    with pytest.raises(InvalidParameter, match=r"only videos in .*set or below can be read from there"):
        videos.build(tmp_path / "elsewhere" / "videos", tmp_path / "set" / "arrow", 2)

    # Neither does a built data set, which somebody else may have built, lead out of the folder that it lies in.
    videos.build(tmp_path / "elsewhere" / "videos", tmp_path / "arrow", 2)
    assert len(arrow_video_edits(tmp_path / "arrow", 2).frames(0)) == 2
    (tmp_path / "arrow").rename(tmp_path / "set" / "arrow")
    with pytest.raises(DatasetInvalid, match=r"row 0: .* leads out of"):
        arrow_video_edits(tmp_path / "set" / "arrow", 2).frames(0)


def test_an_edited_picture_that_a_built_data_set_only_names_is_not_read(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (80, 80)).save(tmp_path / "secret.png")
    named = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    rows = {"input_frames": [["a.png"]], "edit_prompt": ["night"], "edited_image": named}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "arrow")
    with pytest.raises(DatasetInvalid, match="the edited picture is not in the data set"):
        arrow_video_edits(tmp_path / "arrow", 1).edited(0)


def test_a_minimum_of_videos_and_frames_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert videos.main(["mini", str(tmp_path / "videos"), "--num-frames=-3"]) == 1
    assert "2 videos of -3 frames" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert videos.main(["mini", str(tmp_path / "file" / "videos")]) == 1
    assert "Not a directory" in capsys.readouterr().err
    assert not (tmp_path / "videos").exists()


def test_a_picture_with_a_damaged_exif_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def transpose(picture: PIL.Image.Image) -> PIL.Image.Image:
        raise TypeError("a tag that is no number")

    PIL.Image.new("RGB", (80, 80)).save(tmp_path / "a.jpg")
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", transpose)
    with pytest.raises(DatasetInvalid, match=r"a\.jpg: not a readable picture"):
        FolderSource(tmp_path).picture(0)


def test_what_cannot_be_is_said_and_leaves_nothing(tmp_path: Path, sounds: Path) -> None:
    with pytest.raises(InvalidParameter, match="say with --kind what owner/set holds: sound, pictures, edits"):
        open_corpus("owner/set")
    with pytest.raises(DatasetInvalid, match="nowhere: no such folder or manifest"):
        open_corpus(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetInvalid, match="neither sound nor pictures in it"):
        open_corpus(str(tmp_path / "empty"))
    picture(sounds / "cover.png", "red")
    with pytest.raises(DatasetInvalid, match="sound and pictures in it; --kind says what counts"):
        open_corpus(str(sounds))
    assert open_corpus(str(sounds), "sound").kind == "sound"
    picture(tmp_path / "small" / "a.png", "red", (10, 10))
    with pytest.raises(DatasetInvalid, match=r"none of 1 items can be used: .*a\.png: too small"):
        clean_corpus(open_corpus(str(tmp_path / "small")), tmp_path / "clean")
    videos.make_mini(tmp_path / "videos", 1, 20, seed=0)
    with pytest.raises(InvalidParameter, match=r"pictures\.videos builds"):
        clean_corpus(open_corpus(str(tmp_path / "videos")), tmp_path / "clean")
    assert clean_corpus(open_corpus(str(tmp_path / "videos"))).kept == 1
    assert not (tmp_path / "clean").exists()


def test_the_command_tells_and_writes(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["narrate data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    status, out, _ = run(sounds, "--min-duration-s", 0.05)
    assert (status, json.loads(out)["kept"]) == (0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["sounds"]
    status, out, _ = run(sounds, tmp_path / "clean")
    assert (status, json.loads(out)["kept"], json.loads(out)["output_dir"]) == (0, 2, str(tmp_path / "clean"))
    assert (tmp_path / "clean" / "000000.txt").is_file()
    status, out, said = run(sounds, tmp_path / "sounds")
    assert (status, out) == (1, "")
    assert "holds something that no training has written" in " ".join(said.split())
    status, _, said = run(sounds, "--kind", "smell")
    assert status == 1
    assert "'smell' is no kind; there are sound, pictures, edits" in said
