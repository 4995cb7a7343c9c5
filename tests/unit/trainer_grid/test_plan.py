"""From the words of a command line to the cells of a sheet."""

from pathlib import Path

import PIL.Image
import pytest

from narrative.errors import InvalidParameter
from services.trainer.grid.plan import Axis, make_grid
from services.trainer.grid.sheet import labels_of, lay_out


def test_every_place_has_its_values_and_a_file_of_its_own() -> None:
    grid = make_grid("unet-scale=0.4,0.7,1.0", "guidance=3,7", {"prompt": "a fox", "seed": 5})
    assert len(grid.places()) == 6
    cell = grid.cell(1, 1)
    assert (cell.prompt, cell.seed, cell.unet_scale, cell.guidance) == ("a fox", 5, 0.7, 7.0)
    assert grid.file_name(1, 1) == "unet-scale-0.7_guidance-7.png"
    assert cell.trained() == {}
    trained = make_grid("learning-rate=1e-4,3e-4", "steps=100,200", {"prompt": "a fox"}).cell(1, 0)
    assert trained.trained() == {"learning_rate": 3e-4, "max_train_steps": 100}


def test_the_base_can_stand_beside_its_adapters() -> None:
    grid = make_grid("adapter=none,pim", "seed=0", {"prompt": "a fox"})
    assert [grid.cell(row, 0).adapter for row in range(2)] == ["", "pim"]


def test_prompts_come_from_a_file_and_get_names_that_differ(tmp_path: Path) -> None:
    prompts = ["a fox, asleep", "a fox; asleep", "лиса", f"a {'very ' * 30}old fox", f"a {'very ' * 31}old fox"]
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, ""]), encoding="utf-8")
    grid = make_grid(f"prompt=@{tmp_path / 'prompts.txt'}", "seed=0,1", {})
    assert grid.rows.values == tuple(prompts)
    names = {grid.file_name(*place) for place in grid.places()}
    assert len(names) == 10
    assert all(name.isascii() and "/" not in name and len(name) < 120 for name in names)


@pytest.mark.parametrize(
    ("rows", "columns", "fixed", "said"),
    [
        ("colour=red", "seed=1", {}, "no axis 'colour'; there are prompt, adapter"),
        ("seed", "guidance=1", {}, "seed=VALUE,VALUE or seed=@FILE is expected"),
        ("seed=1,1", "guidance=1", {}, "a value stands there twice"),
        ("seed=1", "seed=2", {}, "rows and columns both are seed"),
        ("seed=1,x", "guidance=1", {}, "seed: Input should be a valid integer"),
        ("guidance=99", "seed=1", {}, "guidance: Input should be less than or equal to 30"),
        ("seed=1", "guidance=1", {"seed": 2}, "seed is an axis already"),
        ("seed=@nowhere.txt", "guidance=1", {}, "nowhere.txt cannot be read"),
        (f"seed={','.join(map(str, range(501)))}", "guidance=1,2", {}, "1002 cells; at most 1000"),
    ],
)
def test_what_cannot_be_is_named(rows: str, columns: str, fixed: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        make_grid(rows, columns, {"prompt": "a fox", **fixed})


def test_something_must_be_drawn() -> None:
    with pytest.raises(InvalidParameter, match="say what to draw"):
        make_grid("seed=1", "guidance=1", {})


def test_adapters_are_labelled_by_the_names_of_their_folders_while_those_differ() -> None:
    assert labels_of(Axis("adapter", ("none", "runs/pim"))) == ["adapter none", "adapter pim"]
    assert labels_of(Axis("adapter", ("a/pim", "b/pim"))) == ["adapter a/pim", "adapter b/pim"]
    assert labels_of(Axis("prompt", ("a fox and/or a cat",))) == ["a fox and/or a cat"]


def test_pictures_stand_under_their_labels() -> None:
    colours = [["red", "green", "blue"], ["cyan", "magenta", "yellow"]]
    pictures = [[PIL.Image.new("RGB", (32, 16), colour) for colour in row] for row in colours]
    sheet = lay_out(pictures, Axis("unet_scale", ("0.4", "1")), Axis("seed", ("1", "2", "3")), "a fox", 64)
    flat = sheet.convert("RGB")
    found = [colour for _, colour in flat.getcolors(1 << 16)]
    for row in pictures:
        for picture in row:
            assert picture.getpixel((0, 0)) in found
    # A row of pictures is half as high as it is wide; labels take the rest, and they are written.
    assert flat.width > 3 * 64
    assert flat.height > 2 * 32
    assert any(max(colour) < 40 for colour in found), "no label in black"
