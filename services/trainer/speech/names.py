"""Names of published models; quick to import."""

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_name(name: str) -> str:
    """The name, which is also that of a folder.

    Raises:
        ValueError: it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no name; letters, digits, '.', '_' and '-' are accepted, at most 64")
    return name
