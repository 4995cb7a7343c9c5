"""`narrate picture`: a picture from a prompt."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from narrative.cli.adapters import Adapters, adapter_options
from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, err, out
from narrative.cli.output import check_file, write
from narrative.errors import InvalidParameter


def picture(
    prompt: Annotated[str, typer.Argument(help="What to draw, in English.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; several pictures get numbers.")] = Path(
        "picture.png"
    ),
    number: Annotated[int, typer.Option("-n", min=1, max=8, help="How many pictures.")] = 1,
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, for the same picture again.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels; the model's default where empty.")] = "",
    model: Annotated[str, typer.Option(help="Model to draw with; see `narrate models list`.")] = "",
    adapter: Adapters = None,
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Draw a picture from a prompt; the settings are kept in the PNG."""
    if not prompt.strip():
        raise InvalidParameter("the prompt is empty; say what to draw", field="prompt")
    wanted: dict[str, Any] = {
        "prompt": prompt,
        "n": number,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "size": size,
        "model": model,
        "adapters": adapter_options(adapter),
        "response_format": "b64_json",
    }
    # httpx would not send "nan"; the gateway says what is accepted.
    body = json.dumps({key: value for key, value in wanted.items() if value not in ("", None)})
    headers = {"Content-Type": "application/json"}
    check_file(output)
    with open_client(url, api_key) as client, err.status("drawing"):
        answer = client.document("POST", "/v1/images/generations", "data", content=body, headers=headers)
    save(answer["data"], output)


def save(pictures: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes pictures of an answer and says where; several get numbers."""
    for index, picture in enumerate(pictures):
        path = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{index}")
        write(path, base64.b64decode(picture["b64_json"]))
        out.print(str(path), soft_wrap=True)
