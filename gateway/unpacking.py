"""Archives from strangers: looked through before anything is unpacked, and counted while it is."""

import stat
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO

from narrative.errors import DatasetInvalid, PayloadTooLarge
from narrative.objects import NO_ROOM

# Pictures and sound are packed already; only text goes down this far.
_MAX_RATIO = 100
# Below this a ratio says nothing.
_SMALL_BYTES = 1024**2
_MAX_NAME_BYTES, _MAX_DEPTH = 512, 16
_PIECE_BYTES = 256 * 1024
_END_BYTES = 22
_MAX_COMMENT_BYTES = 65_535
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What file managers put beside the files that were meant.
_CLUTTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Limits:
    """How much a data set may be.

    Attributes:
        max_files: files in it.
        max_file_bytes: size of one of them.
        max_total_bytes: size of all of them, unpacked.
    """

    max_files: int
    max_file_bytes: int
    max_total_bytes: int


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``name`` is a relative path that leads nowhere else."""

    name: str
    info: zipfile.ZipInfo


def open_zip(file: IO[bytes], limits: Limits) -> tuple[zipfile.ZipFile, list[Member]]:
    """A zip and its files, looked through; a folder that holds everything is left out of the names.

    Raises:
        DatasetInvalid: no zip, or a member that is no plain file inside it; names the member.
        PayloadTooLarge: more than the limits, or packed too tightly to be honest.
    """
    packed_bytes = _check_end(file, limits)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError, EOFError) as error:
        raise DatasetInvalid(f"the zip is broken: {error}", field="file") from error
    infos = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info)]
    _check_sizes(infos, limits, packed_bytes)
    for info in infos:
        _check_kind(info)
    names = _without_common_folder([checked_name(info.orig_filename) for info in infos])
    check_unique(names)
    return archive, [Member(name, info) for name, info in zip(names, infos, strict=True)]


def unpack(archive: zipfile.ZipFile, member: Member) -> tuple[IO[bytes], int]:
    """The bytes of a member in a temporary file, and how many they are.

    Raises:
        DatasetInvalid: it is damaged, or longer than the directory says.
    """
    out: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SMALL_BYTES)  # noqa: SIM115  # the caller closes it
    try:
        size = 0
        with archive.open(member.info) as packed:
            while piece := packed.read(_PIECE_BYTES):
                size += len(piece)
                if size > member.info.file_size:
                    raise DatasetInvalid(f"{member.name}: longer than the zip says", field="file")
                out.write(piece)
        if size != member.info.file_size:
            raise DatasetInvalid(f"{member.name}: shorter than the zip says", field="file")
        out.seek(0)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        out.close()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise DatasetInvalid(f"{member.name}: cannot be unpacked: {error}", field="file") from error
    except BaseException:
        out.close()
        raise
    return out, size


def checked_name(name: str) -> str:
    """A relative path in its plain form.

    Raises:
        DatasetInvalid: it is absolute, climbs, or is no name that every system can hold.
    """
    shown = "".join(char if char.isprintable() else "?" for char in name[:120]) or "a file without a name"
    path = PurePosixPath(name)
    if name.startswith("/") or PureWindowsPath(name).drive:
        raise DatasetInvalid(f"{shown}: an absolute name; names inside the data set are accepted", field="file")
    if ".." in path.parts:
        raise DatasetInvalid(f"{shown}: leads out of the data set", field="file")
    if "\\" in name or not name.isprintable() or not path.parts:
        raise DatasetInvalid(f"{shown}: a name with characters that are not accepted", field="file")
    if len(name.encode()) > _MAX_NAME_BYTES or len(path.parts) > _MAX_DEPTH or len(path.name.encode()) > 200:
        raise DatasetInvalid(f"{shown}...: the name is too long or too deep", field="file")
    return str(path)


def _check_end(file: IO[bytes], limits: Limits) -> int:
    """Looks at the end of a zip before the whole directory is read into memory; returns the size of the file."""
    packed_bytes = file.seek(0, 2)
    start = max(0, packed_bytes - _END_BYTES - _MAX_COMMENT_BYTES - 20)
    file.seek(start)
    end = file.read()
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) - at < _END_BYTES:
        raise DatasetInvalid("the file is no zip, or it is cut off", field="file")
    count = int.from_bytes(end[at + 10 : at + 12], "little")
    directory_bytes = int.from_bytes(end[at + 12 : at + 16], "little")
    if b"PK\6\7" in end or count > limits.max_files or directory_bytes > limits.max_files * (_MAX_NAME_BYTES + 128):
        raise PayloadTooLarge(f"the zip has more than {limits.max_files} files", field="file")
    file.seek(0)
    return packed_bytes


def _check_sizes(infos: list[zipfile.ZipInfo], limits: Limits, packed_bytes: int) -> None:
    if len(infos) > limits.max_files:
        raise PayloadTooLarge(f"the zip has more than {limits.max_files} files", field="file")
    for info in infos:
        if info.file_size > limits.max_file_bytes:
            raise PayloadTooLarge(
                f"{info.filename[:120]}: {info.file_size} bytes; at most {limits.max_file_bytes} are accepted",
                field="file",
            )
        if info.file_size > _SMALL_BYTES and info.file_size > _MAX_RATIO * info.compress_size:
            raise PayloadTooLarge(
                f"{info.filename[:120]}: unpacks to more than {_MAX_RATIO} times its size, as no data set does",
                field="file",
            )
    total = sum(info.file_size for info in infos)
    # Members may lie in the same bytes, so that each alone looks honest.
    if total > limits.max_total_bytes or total > _SMALL_BYTES + _MAX_RATIO * packed_bytes:
        raise PayloadTooLarge(
            f"the zip unpacks to {total} bytes; at most {limits.max_total_bytes}, and {_MAX_RATIO} times its own size, "
            "are accepted",
            field="file",
        )


def _check_kind(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise DatasetInvalid(f"{info.filename[:120]}: a link or a device; plain files are accepted", field="file")
    if info.flag_bits & 0x1:
        raise DatasetInvalid(f"{info.filename[:120]}: encrypted", field="file")
    if info.compress_type not in _METHODS:
        raise DatasetInvalid(f"{info.filename[:120]}: packed by another method than deflate", field="file")


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    return path.parts[:1] == ("__MACOSX",) or path.name in _CLUTTER


def _without_common_folder(names: list[str]) -> list[str]:
    """``cats/1.png, cats/2.png`` to ``1.png, 2.png``: who packs a folder means what is in it."""
    folders = {name.partition("/")[0] for name in names}
    if len(folders) != 1 or any("/" not in name for name in names):
        return names
    return [name.partition("/")[2] for name in names]


def check_unique(names: list[str]) -> None:
    """Raises DatasetInvalid where a name is there twice, or is that of a folder as well."""
    seen: set[str] = set()
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name in names:
        if name in seen or name in folders:
            raise DatasetInvalid(f"{name}: there twice", field="file")
        seen.add(name)
