"""The option ``--adapter`` of every command that draws."""

from typing import Annotated, Any

import typer

from narrative.errors import InvalidParameter

Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", help="LoRA adapter as NAME, NAME:WEIGHT or NAME:WEIGHT:TEXT_WEIGHT; may be repeated."),
]


def adapter_options(written: list[str] | None) -> list[dict[str, Any]] | None:
    """What the gateway takes for ``adapters``; None where there are none.

    Raises:
        InvalidParameter: not of the form NAME:WEIGHT:TEXT_WEIGHT.
    """
    return [_option(text) for text in written] if written else None


def _option(text: str) -> dict[str, Any]:
    name, *weights = text.split(":")
    try:
        numbers = [float(weight) for weight in weights]
    except ValueError:
        numbers = []
    if not name or len(numbers) != len(weights) or len(weights) > 2:
        raise InvalidParameter(f"--adapter {text}: NAME, NAME:0.8 or NAME:0.8:0.5 is expected", field="adapters")
    return {"name": name, **dict(zip(("weight", "text_encoder_weight"), numbers, strict=False))}
