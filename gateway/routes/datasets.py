"""Data sets to fine-tune on: keep, show, list, delete."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile

from gateway.datasets import Dataset, File, unpacked
from gateway.intake import base_name, form_body, text_field, upload_form
from gateway.jobs import timestamp
from gateway.paging import cursor_of, from_cursor
from gateway.parts import Gateway, Parts
from gateway.problems import responses
from gateway.settings import GatewaySettings
from gateway.unpacking import Limits, check_unique, checked_name
from narrative.errors import Conflict, InvalidParameter, PayloadTooLarge

router = APIRouter(prefix="/v1/datasets", tags=["fine-tuning"])
# Each is a temporary file while the form is read; more go into a zip.
_MAX_PARTS = 100
_MAX_NAME_CHARS = 200
DatasetId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Id of a data set.")]


class DatasetShown(BaseModel):
    """A data set."""

    id: str
    name: str
    created_at: str = Field(description="UTC, RFC 3339.")
    num_files: int
    size_bytes: int = Field(description="Of all files, unpacked.")
    suffixes: dict[str, int] = Field(description="Number of files by the end of their names.")


class DatasetPage(BaseModel):
    """Data sets from the newest."""

    data: list[DatasetShown]
    next_cursor: str | None = Field(description="Pass as cursor for the next page; null on the last.")


_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": f"One zip, or up to {_MAX_PARTS} files.",
        },
        "name": {"type": "string", "description": "For people; the name of the zip if left out."},
    },
}


@router.post(
    "",
    status_code=201,
    response_model=DatasetShown,
    responses=responses(401, 413, 422),
    openapi_extra=form_body(_FORM),
)
async def create(request: Request, response: Response, gateway: Parts) -> DatasetShown:
    """Keeps a data set, sent as one zip or as several files.

    A zip is unpacked; a folder that holds everything is left out of the names.
    """
    async with upload_form(request, gateway.settings.max_dataset_bytes, _MAX_PARTS) as form:
        unknown = set(form) - {"file", "name"}
        if unknown:
            raise InvalidParameter(f"unknown parts: {', '.join(sorted(unknown))}; there are file and name")
        uploads = _uploads(form)
        name = text_field(form, "name") or base_name(uploads[0].filename or "")
        if len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise InvalidParameter(f"name: at most {_MAX_NAME_CHARS} printable characters are accepted", field="name")
        dataset = await gateway.datasets.add(name, _files(uploads, gateway))
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return shown(dataset)


@router.get("", response_model=DatasetPage, responses=responses(401, 422))
async def page(
    gateway: Parts,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=200, description="next_cursor of the page before.")] = "",
) -> DatasetPage:
    """Lists data sets from the newest."""
    found = await gateway.datasets.page(from_cursor(cursor), limit + 1)
    more, found = len(found) > limit, found[:limit]
    next_cursor = cursor_of(found[-1].created_at_us, found[-1].id) if more else None
    return DatasetPage(data=[shown(dataset) for dataset in found], next_cursor=next_cursor)


@router.get("/{dataset_id}", response_model=DatasetShown, responses=responses(401, 404, 422))
async def show(dataset_id: DatasetId, gateway: Parts) -> DatasetShown:
    """Shows a data set."""
    return shown(await gateway.datasets.get(dataset_id))


@router.delete("/{dataset_id}", status_code=204, responses=responses(401, 404, 409, 422))
async def delete(dataset_id: DatasetId, gateway: Parts) -> None:
    """Removes a data set; what was trained on it stays."""
    await gateway.datasets.get(dataset_id)
    user = await gateway.fine_tunes.unfinished_on(dataset_id)
    if user is not None:
        raise Conflict(f"fine-tune {user} needs the data set; cancel it before you delete it")
    await gateway.datasets.delete(dataset_id)


def shown(dataset: Dataset) -> DatasetShown:
    """A data set as callers see it."""
    return DatasetShown(
        id=dataset.id,
        name=dataset.name,
        created_at=timestamp(dataset.created_at_us),
        num_files=dataset.num_files,
        size_bytes=dataset.size_bytes,
        suffixes=dataset.suffixes,
    )


def _uploads(form: FormData) -> list[UploadFile]:
    uploads = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
    if not uploads:
        raise InvalidParameter("the form has no file part; send a zip, or files, as parts named file", field="file")
    return uploads


def _files(uploads: list[UploadFile], gateway: Gateway) -> AsyncIterator[File]:
    limits = _limits(gateway.settings)
    if len(uploads) == 1 and (uploads[0].filename or "").lower().endswith(".zip"):
        return unpacked(uploads[0].file, limits)
    return _plain_files(uploads, limits)


async def _plain_files(uploads: list[UploadFile], limits: Limits) -> AsyncIterator[File]:
    names = [checked_name(upload.filename or "") for upload in uploads]
    check_unique(names)
    for name, upload in zip(names, uploads, strict=True):
        size_bytes = upload.size or 0
        if name.lower().endswith(".zip"):
            raise InvalidParameter(f"{name}: a zip is sent alone", field="file")
        if size_bytes > limits.max_file_bytes:
            raise PayloadTooLarge(
                f"{name}: {size_bytes} bytes; at most {limits.max_file_bytes} are accepted", field="file"
            )
        yield File(name, upload.file, size_bytes)


def _limits(settings: GatewaySettings) -> Limits:
    return Limits(settings.max_dataset_files, settings.max_dataset_file_bytes, settings.max_dataset_unpacked_bytes)
