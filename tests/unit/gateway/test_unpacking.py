"""Zips that are too much, at the limits of an installation: refused by their directory, before it is read whole."""

import io
import struct
import time
import zipfile

import pytest

from gateway.settings import GatewaySettings
from gateway.unpacking import Limits, open_zip
from narrative.errors import PayloadTooLarge

MILLION, TEN_GB = 1_000_000, 10 * 10**9


@pytest.fixture
def limits() -> Limits:
    settings = GatewaySettings()
    return Limits(settings.max_dataset_files, settings.max_dataset_file_bytes, settings.max_dataset_unpacked_bytes)


def end(entries: int, directory_bytes: int, offset: int) -> bytes:
    """The end of a zip with more than 65,535 entries (APPNOTE 4.3.14 to 4.3.16)."""
    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, directory_bytes, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + directory_bytes, 1)
    return zip64 + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def a_million_files() -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.txt", b"x")
    data = buffer.getvalue()
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\5\6")]
    return io.BytesIO(data[:start] + entry * MILLION + end(MILLION, len(entry) * MILLION, start))


def a_member_of_ten_gigabytes() -> io.BytesIO:
    """Says in its directory what it unpacks to; as much would be written before anybody found out."""
    name, sizes = b"big.bin", struct.pack("<HHQQ", 1, 16, TEN_GB, 30)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 8, 0, 33, 0, 30, 0, len(name), 0) + name + b"\0" * 30
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\1\2", 45, 45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(sizes), 0, 0, 0, 0, 0,
    )  # fmt: skip
    directory = entry + name + sizes
    last = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)
    return io.BytesIO(local + directory + last)


def test_a_million_files_are_refused_without_reading_them(limits: Limits) -> None:
    file = a_million_files()
    started = time.process_time()
    with pytest.raises(PayloadTooLarge, match="more than 10000 files"):
        open_zip(file, limits)
    # The directory alone would take Python many seconds and a gigabyte.
    assert time.process_time() - started < 0.5


def test_a_member_of_ten_gigabytes_is_refused_by_name(limits: Limits) -> None:
    with pytest.raises(PayloadTooLarge, match=r"big\.bin: 10000000000 bytes; at most 536870912"):
        open_zip(a_member_of_ten_gigabytes(), limits)
