"""The two consoles of the command line: results go to standard output, everything else to standard error."""

import contextlib
import errno
import os
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text


class PipedConsole(Console):
    """A console whose closed pipe is an error once; what is printed after that goes nowhere.

    Rich's own ends the program instead, which no ``suppress(OSError)`` keeps from it.
    """

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError, with which typer ends a command quietly: its status is 1."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        # What could not be written is still in the stream, and would be tried again as the program ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# Whatever is printed may hold what others wrote, and brackets and colons in that are neither markup nor emoji.
out = PipedConsole(markup=False, emoji=False, highlight=False)
err = PipedConsole(stderr=True, markup=False, emoji=False, highlight=False)
# Wider than any table: what is no terminal has no width.
_WIDE = 10_000

Url = Annotated[
    str | None,
    typer.Option(envvar="NARRATIVE_URL", help="Gateway to use; by default the one `narrate up` started."),
]
ApiKey = Annotated[str, typer.Option(envvar="NARRATIVE_API_KEY", help="API key, where the gateway asks for one.")]


def print_table(table: Table, *, last_below: bool = False) -> None:
    """A result whose first column has names: nothing in it is cut, and what is no terminal gets one line a row.

    Args:
        last_below: where a terminal has no room for it, the last column, of text, goes below the names.
    """
    for column in table.columns:
        column.overflow = "fold"
    if not out.is_terminal:
        PipedConsole(width=_WIDE, markup=False, emoji=False, highlight=False).print(table)
        return
    longest, *others = map(_width, table.columns)
    # With the lines between columns; at least a few characters are left to each of the others.
    room = out.width - 4 - 9 * len(others)
    if last_below and longest + sum(others) + 3 * len(others) + 4 > out.width:
        table = _last_below(table)
        left = out.width - 4 - sum(others[:-1]) - 3 * len(others[:-1])
        table.columns[0].width = max(left, min(longest, room + 9), 1)
    else:
        table.columns[0].no_wrap = longest <= room
    out.print(table)


def _width(column: Column) -> int:
    return max(Measurement.get(out, out.options, cell).maximum for cell in (column.header, *column.cells))


def _last_below(table: Table) -> Table:
    first, *others, last = table.columns
    headers = (f"{first.header}, {last.header}", *(str(column.header) for column in others))
    made = Table(*headers, title=table.title, title_justify="left", show_lines=True)
    for name, *cells, text in zip(*(column.cells for column in table.columns), strict=True):
        made.add_row(Group(name, Text(str(text), "dim")), *cells)
    for column in made.columns:
        column.overflow = "fold"
    return made


def print_error(title: str, message: str) -> None:
    """One line for people."""
    err.print(Text.assemble((f"{title}:", "bold red"), " ", message), soft_wrap=True)
