"""From the command line, a file or JSON to a recipe's configuration; what is not a setting is refused."""

import difflib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from narrative.errors import InvalidParameter

C = TypeVar("C", bound=BaseModel)
_OPTION_HINT = "; --help lists those there are"
_SHOWN_CHARS = 80


def read_config(cls: type[C], arguments: Sequence[str]) -> C:
    """Builds a configuration of ``--config FILE`` (YAML or JSON, '-' reads standard input), ``--json TEXT`` and flags.

    Flags win over JSON, JSON over the file.

    Raises:
        InvalidParameter: an unknown setting (names the nearest), a value out of range, a file that is not readable.
    """
    values: dict[str, Any] = {}
    flags = _split(cls, arguments)
    for source in flags.pop("config", []):
        values |= _by_name(cls, _read_file(source), source)
    for text in flags.pop("json", []):
        values |= _by_name(cls, _mapping(text, "--json"), "--json")
    for name, given in flags.items():
        values[name] = given if _is_list(cls, name) and len(given) > 1 else given[-1]
    return validated(cls, values)


def names_of(
    cls: type[BaseModel], written: Iterable[str], *, source: str = "", hint: str = _OPTION_HINT
) -> dict[str, str]:
    """Settings by how somebody wrote them: ``trainBatchSize`` or ``train-batch-size`` for ``train_batch_size``.

    Args:
        source: where they stand, for messages.
        hint: how to find those there are.

    Raises:
        InvalidParameter: one is none; names the nearest.
    """
    return {one: _known(cls, _plain(one), f"{source}{_shown(one)}", one, hint=hint) for one in written}


def validated(cls: type[C], values: Mapping[str, Any], written: Mapping[str, str] | None = None) -> C:
    """Builds a configuration of values by name; a text for a list holds its parts between commas.

    Args:
        written: how the caller wrote a name, where otherwise than it is.

    Raises:
        InvalidParameter: every value that is not accepted, one a line.
    """
    parted = {
        name: [part for part in value.split(",") if part] if _is_list(cls, name) and isinstance(value, str) else value
        for name, value in values.items()
    }
    try:
        return cls.model_validate(parted)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name, *inner = map(str, problem["loc"] or ("",))
            where = ".".join([(written or {}).get(name, name), *inner])
            problems.append((where, problem["msg"].removeprefix("Value error, ")))
        lines = [f"{name}: {message}" if name else message for name, message in problems]
        raise InvalidParameter("\n".join(lines), field=problems[0][0]) from error


def _split(cls: type[BaseModel], arguments: Sequence[str]) -> dict[str, list[Any]]:
    flags: dict[str, list[Any]] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise InvalidParameter(f"{argument!r} stands alone; settings are written --name VALUE{_OPTION_HINT}")
        name, has_value, value = argument[2:].partition("=")
        name = _plain(name)
        if name in ("config", "json"):
            pass
        elif name.startswith("no_") and name not in cls.model_fields and _is_switch(cls, name[3:]):
            flags.setdefault(name[3:], []).append(False)
            continue
        else:
            written = argument.partition("=")[0]
            name = _known(cls, name, _shown(written), name, is_flag=True)
        if not has_value:
            if _is_switch(cls, name) and (not rest or rest[0].startswith("--")):
                flags.setdefault(name, []).append(True)
                continue
            if not rest:
                raise InvalidParameter(f"{argument} needs a value", field=name)
            value = rest.pop(0)
        flags.setdefault(name, []).append(value)
    return flags


def _by_name(cls: type[BaseModel], values: dict[Any, Any], source: str) -> dict[str, Any]:
    names = names_of(cls, map(str, values), source=f"{source}: ")
    return {names[str(name)]: value for name, value in values.items()}


def _known(
    cls: type[BaseModel], name: str, shown: str, field: str, *, is_flag: bool = False, hint: str = _OPTION_HINT
) -> str:
    if name in cls.model_fields:
        return name
    close = difflib.get_close_matches(name, cls.model_fields, 1)
    # As it would be written in the same place.
    nearest = f"--{close[0].replace('_', '-')}" if close and is_flag else "".join(close)
    hint = f"; did you mean {nearest}?" if close else hint
    raise InvalidParameter(f"{shown} is not a setting{hint}", field=field)


def _shown(name: str) -> str:
    """A name as it may be printed, whatever is in it."""
    return name if name.isprintable() and len(name) <= _SHOWN_CHARS else repr(name[:_SHOWN_CHARS])


def _plain(name: str) -> str:
    """``trainBatchSize`` and ``train-batch-size`` to ``train_batch_size``."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return words.replace("-", "_").lstrip("_")


def _is_switch(cls: type[BaseModel], name: str) -> bool:
    return name in cls.model_fields and cls.model_fields[name].annotation is bool


def _is_list(cls: type[BaseModel], name: str) -> bool:
    return name in cls.model_fields and get_origin(cls.model_fields[name].annotation) in (list, tuple)


def _read_file(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"--config {source}: not readable: {error}", field="config") from error
    return _mapping(text, source)


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        # JSON may be indented with tabs, which YAML refuses.
        content = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidParameter(f"{source}: neither YAML nor JSON: {error}", field="config") from error
    if not isinstance(content, dict):
        raise InvalidParameter(f"{source}: settings by name are expected, not {type(content).__name__}", field="config")
    return content
