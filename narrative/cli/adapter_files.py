"""`narrate adapters`: what pictures can be drawn with, and LoRA files in and out."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, err, out, print_table
from narrative.cli.output import check_file, write
from narrative.errors import InvalidInput, InvalidParameter

# What a training leaves in its folder.
_WEIGHTS_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PEFT_CONFIG_NAME = "adapter_config.json"

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]


class Form(StrEnum):
    """Forms of a LoRA file."""

    PEFT = "peft"
    KOHYA = "kohya"


@app.command("list")
def list_adapters(url: Url = None, api_key: ApiKey = "") -> None:
    """Show every adapter, what it is for and the word that calls it."""
    with open_client(url, api_key) as client:
        found = client.document("GET", "/v1/adapters", "data")["data"]
    table = Table("adapter", "base", "rank", "trigger word", "size", "licence", "made")
    for adapter in found:
        about = adapter["training"]
        cells = (about.get("base"), about.get("rank"), about.get("trigger_word"))
        size = f"{adapter['size_bytes'] / 1e6:.1f} MB"
        table.add_row(adapter["name"], *map(_shown, cells), size, _shown(about.get("licence")), adapter["created_at"])
    print_table(table)


@app.command("import")
def import_adapter(
    path: Annotated[Path, typer.Argument(help="LoRA as a .safetensors file, or a folder that a training has written.")],
    name: Annotated[str, typer.Option(help="Name to draw with; that of the file or folder by default.")] = "",
    base: Annotated[str, typer.Option(help="Model it is for; found by its shapes by default.")] = "",
    alpha: Annotated[float | None, typer.Option(help="Of a file in peft's own form without its configuration.")] = None,
    trigger_word: Annotated[str, typer.Option(help="What to write into prompts.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the adapter.")] = "",
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Publish a LoRA of kohya's, diffusers' or peft's form, so that pictures can be drawn with it at once."""
    file = weights_file(path)
    fields = {
        "name": name or (path.resolve().name if path.is_dir() else path.stem),
        "base": base,
        "alpha": _alpha_beside(file) if alpha is None else alpha,
        "trigger_word": trigger_word,
        "licence": licence,
    }
    data = {key: value for key, value in fields.items() if value not in ("", None)}
    with open_client(url, api_key) as client, err.status("publishing"), file.open("rb") as opened:
        adapter = client.document("POST", "/v1/adapters", "training", data=data, files={"file": (file.name, opened)})
    shown = f'{adapter["name"]} is ready for {adapter["training"]["base"]}: narrate picture "..." --adapter '
    out.print(f"{shown}{adapter['name']}", soft_wrap=True)


@app.command("export")
def export_adapter(
    name: Name,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; NAME.safetensors by default.")] = None,
    form: Annotated[
        Form, typer.Option("--format", help="kohya for most other tools, peft for diffusers and peft.")
    ] = Form.KOHYA,
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Write an adapter as a .safetensors file."""
    path = output or Path(f"{name}.safetensors")
    check_file(path)
    with open_client(url, api_key) as client, err.status("fetching"):
        content = client.request("GET", f"{_path(name)}/weights", params={"format": form.value}).content
    write(path, content)
    out.print(str(path), soft_wrap=True)


@app.command("rm")
def remove_adapter(name: Name, url: Url = None, api_key: ApiKey = "") -> None:
    """Remove an adapter; nobody can draw with it any more."""
    with open_client(url, api_key) as client:
        client.request("DELETE", _path(name))


def _path(name: str) -> str:
    if not name:
        raise InvalidParameter("name the adapter; `narrate adapters list` shows those there are", field="name")
    return f"/v1/adapters/{quote(name, safe='')}"


def weights_file(path: Path) -> Path:
    """The weights in a folder, or the file itself.

    Raises:
        InvalidInput: there is none.
    """
    if path.is_file():
        return path
    found = next((path / name for name in _WEIGHTS_NAMES if (path / name).is_file()), None)
    if found is None:
        raise InvalidInput(f"{path}: no such file, and no folder with {' or '.join(_WEIGHTS_NAMES)}")
    return found


def _alpha_beside(file: Path) -> float | None:
    """Alpha from peft's configuration beside its weights; None where there is none."""
    config_file = file.with_name(_PEFT_CONFIG_NAME)
    if file.name != _WEIGHTS_NAMES[1] or not config_file.is_file():
        return None
    try:
        return float(json.loads(config_file.read_text(encoding="utf-8"))["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidParameter(f"{config_file} does not tell lora_alpha; give --alpha", field="alpha") from error


def _shown(value: Any) -> str:
    return "-" if value in (None, "") else str(value)
