"""The adapters folder, listed and cleared."""

import json
from pathlib import Path

import pytest

from narrative.errors import AdapterNotFound, InvalidParameter
from services.trainer.adapters import WEIGHTS_NAME, AdapterShelf


@pytest.fixture
def shelf(tmp_path: Path) -> AdapterShelf:
    (tmp_path / "seal").mkdir()
    (tmp_path / "seal" / WEIGHTS_NAME).write_bytes(b"12345")
    (tmp_path / "seal" / "training.json").write_text('{"rank": 4}')
    (tmp_path / "given.safetensors").write_bytes(b"123")
    (tmp_path / ".half.partial").mkdir()
    (tmp_path / "no-adapter").mkdir()
    return AdapterShelf(tmp_path)


def test_adapters_are_listed_with_what_is_known(shelf: AdapterShelf) -> None:
    given, seal = shelf.all()
    assert (given.name, given.size_bytes, given.description) == ("given", 3, "")
    assert (seal.name, seal.size_bytes, json.loads(seal.description)) == ("seal", 5, {"rank": 4})


def test_deleting_removes_one(shelf: AdapterShelf, tmp_path: Path) -> None:
    shelf.delete("seal")
    shelf.delete("given")
    assert shelf.all() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".half.partial", "no-adapter"]


def test_names_only(shelf: AdapterShelf) -> None:
    with pytest.raises(AdapterNotFound, match="given, seal"):
        shelf.delete("other")
    for name in ("../seal", "", ".half.partial", "a/b"):
        with pytest.raises(InvalidParameter):
            shelf.delete(name)
