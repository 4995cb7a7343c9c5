"""Data sets: what is sent is kept whole, and what strangers pack into zips is refused by name, with nothing left."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.database import Database
from gateway.datasets import Datasets
from narrative.objects import Objects
from tests.integration.gateway.conftest import Api, files_below, serving
from tests.integration.gateway.fakes import Ensemble, png


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


async def send(api: Api, *files: tuple[str, bytes], **data: str) -> httpx.Response:
    return await api.http.post("/v1/datasets", files=[("file", file) for file in files], data=data)


async def test_a_zip_is_unpacked_without_its_folder(api: Api) -> None:
    members = {
        "cats/1.png": png(8, 8, 1),
        "cats/more/кот 2.png": png(8, 8, 2),
        "cats/1.txt": b"a cat",
        "__MACOSX/cats/._1.png": b"clutter",
        "cats/.DS_Store": b"clutter",
    }
    response = await send(api, ("cats.zip", packed(members)))

    assert response.status_code == 201, response.text
    shown = response.json()
    assert response.headers["location"] == f"/v1/datasets/{shown['id']}"
    assert (shown["name"], shown["num_files"], shown["suffixes"]) == ("cats.zip", 3, {".png": 2, ".txt": 1})
    assert shown["size_bytes"] == len(members["cats/1.png"]) + len(members["cats/more/кот 2.png"]) + 5
    assert files_below(api) == [f"datasets/{shown['id']}/{name}" for name in ("1.png", "1.txt", "more/кот 2.png")]
    kept = Path(api.settings.object_store_url) / "datasets" / shown["id"] / "1.png"
    assert kept.read_bytes() == members["cats/1.png"]
    assert (await api.http.get(f"/v1/datasets/{shown['id']}")).json() == shown


async def test_files_are_kept_listed_and_deleted(api: Api) -> None:
    ids = [
        (await send(api, ("1.png", png()), ("2.png", png()), name=f"set {number}")).json()["id"] for number in range(3)
    ]
    first = (await api.http.get("/v1/datasets", params={"limit": 2})).json()
    rest = (await api.http.get("/v1/datasets", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [dataset["name"] for dataset in first["data"] + rest["data"]] == ["set 2", "set 1", "set 0"]
    assert rest["next_cursor"] is None

    assert (await api.http.delete(f"/v1/datasets/{ids[1]}")).status_code == 204
    assert (await api.http.get(f"/v1/datasets/{ids[1]}")).status_code == 404
    assert (await api.http.delete(f"/v1/datasets/{ids[1]}")).status_code == 404
    assert not [path for path in files_below(api) if ids[1] in path]


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("good/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr("good/1.png", png())
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.png", png())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1.png", png())
    return buffer.getvalue()


def damaged() -> bytes:
    data = bytearray(packed({"a.png": png(), "b.png": bytes(range(256)) * 40}, zipfile.ZIP_STORED))
    at = data.index(bytes(range(256)))
    data[at + 7] ^= 1
    return bytes(data)


def with_flag(offset: int, value: int) -> bytes:
    """A zip of one member with a byte of its entry in the directory changed."""
    data = bytearray(packed({"a.png": png()}))
    data[data.index(b"PK\1\2") + offset] = value
    return bytes(data)


def overlapping() -> bytes:
    """Many entries that point at the same few bytes."""
    data = packed({"0.txt": b"\0" * 900_000})
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\5\6")]
    entries = b"".join(entry.replace(b"0.txt", f"{index}.txt".encode()) for index in range(10))
    end = bytearray(data[data.index(b"PK\5\6") :])
    end[8:12] = (10).to_bytes(2, "little") * 2
    end[12:16] = len(entries).to_bytes(4, "little")
    return data[:start] + entries + bytes(end)


BAD_ZIPS: list[tuple[Callable[[], bytes], int, str]] = [
    (lambda: packed({"ok.png": png(), "../evil.png": png()}), 422, "../evil.png: leads out"),
    (lambda: packed({"a/../../evil.png": png()}), 422, "leads out"),
    (lambda: packed({"/etc/passwd": b"x"}), 422, "/etc/passwd: an absolute name"),
    (lambda: packed({"C:/x.png": b"x"}), 422, "an absolute name"),
    (lambda: packed({"a\\b.png": b"x"}), 422, "not accepted"),
    (lambda: packed({"a\nb.png": b"x"}), 422, "not accepted"),
    (lambda: packed({"a/" * 20 + "x.png": b"x"}), 422, "too deep"),
    (lambda: packed({"a.png": png(), "a.png/b.png": png()}), 422, "a.png: there twice"),
    (link, 422, "link.png: a link"),
    (twice, 422, "1.png: there twice"),
    (damaged, 422, "b.png: cannot be unpacked"),
    (lambda: with_flag(8, 1), 422, "a.png: encrypted"),
    (lambda: with_flag(10, 99), 422, "a.png: packed by another method"),
    (lambda: packed({"ok.png": png(), "big.bin": b"0" * 5_000_000}), 413, "big.bin: 5000000 bytes; at most 3000000"),
    (lambda: packed({"bomb.bin": b"\0" * 2_900_000}), 413, "bomb.bin: unpacks to more than 100 times"),
    (overlapping, 413, "unpacks to 9000000 bytes"),
    (lambda: packed({f"{index}.txt": b"x" for index in range(21)}), 413, "more than 20 files"),
    (lambda: packed({}), 422, "no files"),
    (lambda: packed({"folder/": b""}), 422, "no files"),
    (lambda: packed({"a.png": png()})[:-30], 422, "no zip"),
    (lambda: b"not a zip at all", 422, "no zip"),
    (lambda: b"", 422, "no zip"),
]


async def test_bad_zips_are_refused_by_name_and_leave_nothing(fakes: Ensemble, tmp_path: Path) -> None:
    limits: dict[str, Any] = {
        "max_dataset_files": 20,
        "max_dataset_file_bytes": 3_000_000,
        "max_dataset_unpacked_bytes": 6_000_000,
    }
    async with serving(fakes, tmp_path, **limits) as api:
        for make, status, message in BAD_ZIPS:
            response = await send(api, ("cats.zip", make()))
            problem = response.json()
            assert (response.status_code, message in problem["detail"]) == (status, True), problem
            assert problem["field"] == "file"
            assert files_below(api) == []
        assert (await api.http.get("/v1/datasets")).json()["data"] == []


async def test_bad_forms_are_refused(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path, max_dataset_bytes=100_000, max_dataset_file_bytes=50_000) as api:
        for files, data, status, message in [
            ([("1.png", png()), ("1.png", png())], {}, 422, "1.png: there twice"),
            ([("1.png", png()), ("a.zip", packed({"a": b""}))], {}, 422, "a zip is sent alone"),
            ([("../1.png", png())], {}, 422, "leads out"),
            ([("1.bin", b"0" * 60_000)], {}, 413, "1.bin: 60000 bytes"),
            ([("1.bin", b"0" * 3_000_000)], {}, 413, "larger than 100000"),
            ([(f"{index}.txt", b"x") for index in range(101)], {}, 422, "Too many files"),
            ([("1.png", png())], {"colour": "red"}, 422, "unknown parts: colour"),
            ([("1.png", png())], {"name": "x" * 201}, 422, "name: at most 200"),
        ]:
            response = await send(api, *files, **data)
            assert (response.status_code, message in response.text) == (status, True), response.text
        assert (await api.http.post("/v1/datasets", data={"name": "x"})).status_code == 422
        assert files_below(api) == []


async def test_what_a_killed_upload_left_is_swept(api: Api) -> None:
    kept = (await send(api, ("1.png", png()))).json()["id"]
    half = Path(api.settings.object_store_url) / "datasets" / ("f" * 32) / "1.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    database = Database(api.settings.database_url, 2)
    try:
        await Datasets(database, Objects(api.settings.object_store_url)).sweep(0.0)
    finally:
        await database.close()
    assert files_below(api) == [f"datasets/{kept}/1.png"]
