"""What a grid is made of: two settings with their values, and everything else that is the same in all cells."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from narrative.errors import InvalidParameter
from services.trainer.arguments import validated
from services.trainer.config import Settings

MAX_CELLS = 1000
# By the axis: the setting of a recipe that it stands for. Every value means a training of its own.
TRAINED = {
    "learning_rate": "learning_rate",
    "text_encoder_lr": "text_encoder_lr",
    "rank": "rank",
    "steps": "max_train_steps",
}
_LONGEST_SLUG = 48


class Cell(Settings):
    """Everything that one picture depends on; each of these can be an axis."""

    prompt: str = Field("", max_length=4000, description="What to draw.")
    adapter: str = Field("", description="Adapter: folder, .safetensors file, or name in the registry; or none.")
    unet_scale: float = Field(1.0, ge=-4, le=4, description="Weight of the adapter on the UNet or transformer.")
    text_encoder_scale: float | None = Field(
        None, ge=-4, le=4, description="Weight of the adapter on the text encoder; the same where it is not given."
    )
    guidance: float | None = Field(None, ge=0, le=30, description="Classifier-free guidance.")
    inference_steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the picture.")
    learning_rate: float | None = Field(None, gt=0, description="Learning rate of a training for each value.")
    text_encoder_lr: float | None = Field(None, gt=0, description="Likewise, of the text encoder.")
    rank: int | None = Field(None, ge=1, description="Rank of an adapter trained for each value.")
    steps: int | None = Field(None, ge=1, description="Training steps, a training for each value.")

    @field_validator("adapter")
    @classmethod
    def _none(cls, adapter: str) -> str:
        """On an axis of adapters ``none`` is the base by itself, which an empty value could not name."""
        return "" if adapter == "none" else adapter

    def trained(self) -> dict[str, Any]:
        """The settings of the recipe that this cell sets."""
        return {setting: value for axis, setting in TRAINED.items() if (value := getattr(self, axis)) is not None}


@dataclass(frozen=True)
class Axis:
    """One setting and the values it takes, as they were written."""

    name: str
    values: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Grid:
    """Two axes over a cell that says all the rest."""

    rows: Axis
    columns: Axis
    fixed: Cell

    def cell(self, row: int, column: int) -> Cell:
        """The cell at a place, from 0."""
        return _with(
            self.fixed,
            {self.rows.name: self.rows.values[row], self.columns.name: self.columns.values[column]},
        )

    def places(self) -> list[tuple[int, int]]:
        """Rows and columns of all cells, row by row."""
        return [(row, column) for row in range(len(self.rows.values)) for column in range(len(self.columns.values))]

    def file_name(self, row: int, column: int) -> str:
        """Of the cell's picture."""
        return f"{slug(self.rows, row)}_{slug(self.columns, column)}.png"


def make_grid(rows: str, columns: str, fixed: Mapping[str, Any]) -> Grid:
    """Reads the axes, ``NAME=VALUE,VALUE`` or ``NAME=@FILE`` with a value in every line, and checks every value.

    Raises:
        InvalidParameter: no such axis, the same one twice, a value that it cannot have, too many cells.
    """
    grid = Grid(_axis(rows, "rows"), _axis(columns, "columns"), validated(Cell, dict(fixed)))
    if grid.rows.name == grid.columns.name:
        raise InvalidParameter(f"rows and columns both are {grid.rows.name}; name two settings", field="columns")
    for axis in (grid.rows, grid.columns):
        if fixed.get(axis.name) not in (None, ""):
            raise InvalidParameter(f"{axis.name} is an axis already; leave the option out", field=axis.name)
        for value in axis.values:
            _with(grid.fixed, {axis.name: value})
    if len(grid.places()) > MAX_CELLS:
        raise InvalidParameter(f"{len(grid.places())} cells; at most {MAX_CELLS} are accepted", field="rows")
    if not grid.fixed.prompt and "prompt" not in (grid.rows.name, grid.columns.name):
        raise InvalidParameter("say what to draw: --prompt, or an axis prompt=@FILE", field="prompt")
    return grid


def slug(axis: Axis, index: int) -> str:
    """A value for a file name; what is long or strange is told apart by a digest."""
    value = axis.values[index]
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", plain).strip("-.")
    if plain != value or len(plain) > _LONGEST_SLUG:
        plain = f"{plain[:_LONGEST_SLUG]}-{sha256(value.encode()).hexdigest()[:6]}"
    return f"{axis.name.replace('_', '-')}-{plain}"


def _axis(text: str, field: str) -> Axis:
    written, _, values = text.partition("=")
    shown = f"--{field} {text[:80]}"
    name = written.strip().replace("-", "_")
    if name not in Cell.model_fields:
        known = ", ".join(axis.replace("_", "-") for axis in Cell.model_fields)
        raise InvalidParameter(f"{shown}: there is no axis {written!r}; there are {known}", field=field)
    if values.startswith("@"):
        try:
            found = Path(values[1:]).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"{shown}: {values[1:]} cannot be read: {error}", field=field) from error
    else:
        found = values.split(",")
    chosen = tuple(value.strip() for value in found if value.strip())
    if not chosen:
        raise InvalidParameter(
            f"--{field} {text[:80]}: {written}=VALUE,VALUE or {written}=@FILE is expected", field=field
        )
    if len(set(chosen)) < len(chosen):
        raise InvalidParameter(f"{shown}: a value stands there twice", field=field)
    return Axis(name, chosen)


def _with(cell: Cell, values: Mapping[str, str]) -> Cell:
    return validated(Cell, {**cell.model_dump(), **values})
