"""Writing to the scratch folder, which can be full."""

from typing import Protocol

from narrative.errors import ResourceExhausted


class RawFile(Protocol):
    """An unbuffered binary file."""

    def write(self, data: bytes, /) -> int | None: ...


def write_all(file: RawFile, data: bytes) -> None:
    """Writes all of ``data`` or says that it cannot.

    Raises:
        ResourceExhausted: the disk is full; waiting helps, since running calls give theirs back.
    """
    try:
        written = file.write(data)
    except OSError as error:
        raise ResourceExhausted(f"the scratch folder takes no more: {error.strerror}", retry_after_s=60.0) from error
    if written != len(data):
        raise ResourceExhausted("the scratch folder is full", retry_after_s=60.0)
