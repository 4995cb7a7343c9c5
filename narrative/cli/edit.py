"""`narrate edit`: a picture changed by an instruction."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from narrative.cli.adapters import Adapters, adapter_options
from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, err
from narrative.cli.output import check_file
from narrative.cli.picture import save
from narrative.errors import InvalidParameter


def edit(
    instruction: Annotated[str, typer.Argument(help="What to change, in English, for example 'make it night'.")],
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE...",
            help="File, or path of a picture of the gateway such as /v1/narratives/ID/images/0; for a model of videos "
            "the files of all frames in order.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Model to edit with, such as one that you trained.")] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; several pictures get numbers.")] = Path(
        "edited.png"
    ),
    number: Annotated[int, typer.Option("-n", min=1, max=8, help="How many results.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, for the same result again.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the instruction.")] = None,
    image_guidance_scale: Annotated[float | None, typer.Option(help="How closely to keep to the picture.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    adapter: Adapters = None,
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Edit a picture by an instruction, with a model trained by the pix2pix recipe."""
    if not instruction.strip():
        raise InvalidParameter("the instruction is empty; say what to change", field="prompt")
    check_file(output)
    wanted: dict[str, Any] = {
        "prompt": instruction,
        "model": model,
        "n": number,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "image_guidance_scale": image_guidance_scale,
        "negative_prompt": negative_prompt,
        "adapters": json.dumps(adapter_options(adapter)) if adapter else "",
        "response_format": "b64_json",
    }
    fields = {key: str(value) for key, value in wanted.items() if value not in ("", None)}
    files = []
    if len(pictures) == 1 and pictures[0].startswith("/v1/"):
        fields["image_url"] = pictures[0]
    else:
        files = [("image", (Path(name).name, _read(Path(name)))) for name in pictures]
    # Without files httpx would not send a multipart form; an empty part stands for a field that is left out.
    form = files or {"user": (None, "")}
    with open_client(url, api_key) as client, err.status("editing"):
        answer = client.document("POST", "/v1/images/edits", "data", data=fields, files=form)
    save(answer["data"], output)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be read: {error.strerror}") from error
