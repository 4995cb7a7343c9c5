"""Cursors of lists from the newest: where a page ended, as text that means nothing to the caller."""

import base64
import binascii
import re

from narrative.errors import InvalidParameter

_CURSOR = re.compile(r"(\d{1,18}):([0-9a-f]{32})")


def cursor_of(created_at_us: int, row_id: str) -> str:
    """The cursor after a row."""
    return base64.urlsafe_b64encode(f"{created_at_us}:{row_id}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> tuple[int, str] | None:
    """(created_at_us, id) of the row before the page; None for the first page.

    Raises:
        InvalidParameter: no list gave it.
    """
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    parts = _CURSOR.fullmatch(text)
    if parts is None:
        raise InvalidParameter("cursor is none that this list gave", field="cursor")
    return int(parts[1]), parts[2]
