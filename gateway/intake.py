"""Uploads: streamed from the connection to disk, looked at, and streamed on to the object store."""

import asyncio
import hashlib
import io
import mimetypes
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO, Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.audio_probe import probe_audio
from narrative.errors import InvalidInput, InvalidParameter, PayloadTooLarge

# What a form adds to its file: boundaries, headers, options.
_FORM_BYTES = 2 * 1024**2
# Starlette writes to disk what is larger.
_AT_HAND_BYTES = MultiPartParser.spool_max_size


class _StrictParser(MultiPartParser):
    """Refuses a text part that is not UTF-8, where Starlette would read it as Latin-1."""

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                bytes(part.data).decode("utf-8")
            except UnicodeDecodeError as error:
                raise MultiPartException(f"part {part.field_name!r} is not UTF-8") from error
        super().on_part_end()


@dataclass(frozen=True)
class Recording:
    """A recording that came with a form.

    Attributes:
        file: lies on disk above a MiB, and goes away with the request.
        content: the whole file where it is not on disk, else empty.
    """

    file: IO[bytes]
    content: bytes
    filename: str
    media_type: str
    size_bytes: int

    async def check(self, max_duration_s: float) -> None:
        """Raises AudioUndecodable or AudioRejected where it is not acceptable."""
        await asyncio.to_thread(probe_audio, self.opened(), self.size_bytes, self.filename, max_duration_s)

    async def sha256(self) -> str:
        """Digest of the file, in hexadecimal."""
        return await asyncio.to_thread(lambda: hashlib.file_digest(self.opened(), "sha256").hexdigest())  # type: ignore[arg-type]

    def opened(self) -> IO[bytes]:
        """The file at its start, for one reader at a time: what is on disk has one position."""
        self.file.seek(0)
        return io.BytesIO(self.content) if self.content else self.file


@asynccontextmanager
async def upload_form(request: Request, max_upload_bytes: int, max_files: int = 1) -> AsyncIterator[FormData]:
    """Reads a multipart form, counting bytes as they come: what a header claims is not trusted.

    Raises:
        InvalidInput: it is no multipart form, or a broken one.
        PayloadTooLarge: there are more bytes than the limit.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("send the file as multipart/form-data in a part named file")

    async def counted() -> AsyncIterator[bytes]:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_upload_bytes + _FORM_BYTES:
                raise PayloadTooLarge(f"the upload is larger than {max_upload_bytes} bytes", field="file")
            yield chunk

    try:
        form = await _StrictParser(request.headers, counted(), max_files=max_files, max_fields=20).parse()  # type: ignore[arg-type]
    except MultiPartException as error:
        raise InvalidInput(f"the multipart form is broken: {error.message}") from error
    except (KeyError, UnicodeError) as error:
        raise InvalidInput("the multipart form is broken") from error
    try:
        yield form
    finally:
        await form.close()


def form_body(schema: dict[str, Any]) -> dict[str, Any]:
    """What the OpenAPI document is told of a route that reads a multipart form itself."""
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def file_part(form: FormData, max_bytes: int) -> UploadFile:
    """The part named file.

    Raises:
        InvalidParameter: there is no such part.
        PayloadTooLarge: it is larger than the limit.
    """
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise InvalidParameter("the form has no file part; send the file as a part named file", field="file")
    if (upload.size or 0) > max_bytes:
        raise PayloadTooLarge(f"the file is larger than {max_bytes} bytes", field="file")
    return upload


def recording_part(form: FormData, max_bytes: int) -> Recording:
    """The part named file.

    Raises:
        InvalidParameter: there is no such part.
        PayloadTooLarge: it is larger than the limit.
    """
    upload = file_part(form, max_bytes)
    size_bytes = upload.size or 0
    filename = base_name(upload.filename or "")
    media_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    content = upload.file.read() if size_bytes <= _AT_HAND_BYTES else b""
    return Recording(upload.file, content, filename, media_type, size_bytes)


def text_fields(form: FormData, files: Collection[str]) -> dict[str, str]:
    """The text parts by name; an empty one stands for a field that was left out, as in every form.

    Args:
        files: names of the parts that are none.

    Raises:
        InvalidParameter: another part is a file.
    """
    return {name: text for name in form if name not in files and (text := text_field(form, name))}


def text_field(form: FormData, name: str, default: str = "") -> str:
    """A text part of a form.

    Raises:
        InvalidParameter: it is a file.
    """
    value = form.get(name, default)
    if not isinstance(value, str):
        raise InvalidParameter(f"{name} must be a text part, not a file", field=name)
    return value


def base_name(filename: str) -> str:
    """The last part of a name, whatever system it comes from; used to show, never to open."""
    name = PureWindowsPath(PurePosixPath(filename).name).name
    return "".join(char for char in name if char.isprintable())[:200]
