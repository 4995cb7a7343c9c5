"""From a plan to a sheet: trains what is missing, draws what is missing, lays everything out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo

from narrative.errors import Conflict, InvalidParameter
from services.trainer.failures import clear_errors
from services.trainer.grid.draw import Studio, find_adapter
from services.trainer.grid.plan import TRAINED, Cell, Grid
from services.trainer.grid.sheet import lay_out
from services.trainer.grid.trainings import Trainings
from services.trainer.pictures.adapter import WEIGHTS_NAME
from services.trainer.pictures.train import quiet_libraries

_DEFAULT_MODEL = "storybook"
_PLAN_NAME = "grid.json"
_MADE = ("cells", "trainings")
_SUFFIXES = (".png", ".webp", ".jpg")


@dataclass(frozen=True)
class Order:
    """A grid somebody asks for; "" and None where nothing was said."""

    grid: Grid
    folder: Path
    model_id: str
    recipe: str
    settings: Path | None
    sheet: Path
    tile_px: int


def draw_grid(order: Order, num_threads: int, report: Callable[[str], None]) -> Path:
    """Makes the sheet; what is in the folder already is not made again.

    Raises:
        InvalidParameter: the settings do not go together.
        Conflict: the folder holds another grid.
        Cancelled: a training was stopped; the same call goes on.
        NarrativeError: a training failed, the model cannot be loaded, or an adapter does not fit.
    """
    if order.sheet.suffix.lower() not in _SUFFIXES:
        raise InvalidParameter(f"{order.sheet}: the sheet is a file that ends in {', '.join(_SUFFIXES)}", field="sheet")
    grid, places = order.grid, order.grid.places()
    trainings = _trainings(order)
    cells = {place: grid.cell(*place) for place in places}
    models = {trainings.config(cell).model_id for cell in cells.values()} if trainings else set()
    if order.model_id and models - {order.model_id}:
        raise InvalidParameter(f"the settings train {models.pop()}, not {order.model_id}", field="model_id")
    model_id = order.model_id or next(iter(models), _DEFAULT_MODEL)
    _claim(order, trainings, model_id)
    files = {place: order.folder / "cells" / grid.file_name(*place) for place in places}
    missing = [place for place in places if not files[place].is_file()]
    with clear_errors():
        if trainings:
            _train([cells[place] for place in missing], trainings, report)
        if missing:
            quiet_libraries()
            if num_threads:
                torch.set_num_threads(num_threads)
            studio = Studio(model_id)
            for number, place in enumerate(missing, 1):
                report(f"drawing {number} of {len(missing)}: {files[place].stem}")
                cell = cells[place]
                picture = studio.draw(cell, _adapter(cell, trainings, order.folder, report))
                _save(picture, cell, model_id, files[place])
    pictures = [
        [PIL.Image.open(files[row, column]) for column in range(len(grid.columns.values))]
        for row in range(len(grid.rows.values))
    ]
    order.sheet.parent.mkdir(parents=True, exist_ok=True)
    lay_out(pictures, grid.rows, grid.columns, _caption(grid, model_id), order.tile_px).save(order.sheet)
    return order.sheet


def _trainings(order: Order) -> Trainings | None:
    names = {order.grid.rows.name, order.grid.columns.name}
    trained = sorted(name.replace("_", "-") for name in names & TRAINED.keys())
    if bool(order.recipe) != (order.settings is not None):
        raise InvalidParameter("--recipe and --settings belong together", field="recipe")
    if order.recipe and order.settings is not None:
        if not trained:
            raise InvalidParameter(f"a recipe needs an axis to train over: {', '.join(TRAINED)}", field="recipe")
        if order.grid.fixed.adapter or "adapter" in names:
            raise InvalidParameter("adapters are trained here; leave adapter out", field="adapter")
        return Trainings(order.recipe, order.settings, order.folder / "trainings")
    if trained:
        raise InvalidParameter(f"{', '.join(trained)}: every value is a training; give --recipe and --settings")
    needy = sorted(names & {"unet_scale", "text_encoder_scale"})
    if needy and not order.grid.fixed.adapter and "adapter" not in names:
        raise InvalidParameter(f"{needy[0].replace('_', '-')} weighs an adapter; name one with --adapter")
    return None


def _claim(order: Order, trainings: Trainings | None, model_id: str) -> None:
    """Writes what the grid is about into its folder, or compares it with what is written there."""
    grid = order.grid
    asked: dict[str, Any] = {
        "rows": grid.rows.name,
        "columns": grid.columns.name,
        "fixed": grid.fixed.model_dump(mode="json"),
        "model_id": model_id,
        "recipe": order.recipe,
        "settings": trainings.config(grid.fixed).model_dump(mode="json") if trainings else None,
    }
    path = order.folder / _PLAN_NAME
    # One that failed before its first picture, for an adapter that is not there say, is in nobody's way.
    begun = any(file.is_file() for name in _MADE for file in (order.folder / name).rglob("*"))
    if path.is_file() and begun:
        there = json.loads(path.read_text(encoding="utf-8"))
        if other := [name for name in asked if there.get(name) != asked[name]]:
            raise Conflict(f"{order.folder} holds a grid with other {', '.join(other)}; name another folder")
        return
    if not path.is_file() and order.folder.is_dir() and any(order.folder.iterdir()):
        raise Conflict(f"{order.folder} holds something else than a grid; name another folder")
    (order.folder / "cells").mkdir(parents=True, exist_ok=True)
    path.write_text(f"{json.dumps(asked, indent=2, ensure_ascii=False)}\n", encoding="utf-8")


def _train(cells: list[Cell], trainings: Trainings, report: Callable[[str], None]) -> None:
    wanted = {trainings.adapter(cell): cell for cell in cells if not trainings.is_done(cell)}
    # The shortest first: longer ones go on from there.
    in_turn = sorted(wanted.items(), key=lambda item: item[1].steps or 0)
    for number, (folder, cell) in enumerate(in_turn, 1):
        what = f"training {number} of {len(wanted)}, {folder.name}"
        trainings.train(cell, lambda line, what=what: report(f"{what}: {line}"))  # type: ignore[misc]


def _adapter(cell: Cell, trainings: Trainings | None, folder: Path, report: Callable[[str], None]) -> Path | None:
    if trainings is not None:
        return trainings.adapter(cell).resolve() / WEIGHTS_NAME
    return find_adapter(cell.adapter, folder / "adapters", report) if cell.adapter else None


def _save(picture: PIL.Image.Image, cell: Cell, model_id: str, path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", json.dumps({**cell.model_dump(mode="json", exclude_none=True), "model": model_id}))
    partial = path.with_suffix(".partial")
    picture.save(partial, "PNG", pnginfo=info)
    # Beside the picture, where `narrate evaluate pictures --metric clip_t` looks for it.
    path.with_suffix(".txt").write_text(cell.prompt, encoding="utf-8")
    partial.rename(path)


def _caption(grid: Grid, model_id: str) -> str:
    """What all cells share, as far as it was said."""
    said = grid.fixed.model_dump(exclude_defaults=True)
    said.pop("prompt", None)
    return ", ".join(
        [
            *([grid.fixed.prompt] if grid.fixed.prompt else []),
            model_id,
            *(f"{name.replace('_', ' ')} {value}" for name, value in said.items()),
        ]
    )
