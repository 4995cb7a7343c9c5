"""`--adapter` to what the gateway takes."""

import pytest

from narrative.cli.adapters import adapter_options
from narrative.errors import InvalidParameter


def test_weights_are_optional() -> None:
    assert adapter_options(None) is None
    assert adapter_options(["seal", "mist:0.5", "fog:0.5:0.1"]) == [
        {"name": "seal"},
        {"name": "mist", "weight": 0.5},
        {"name": "fog", "weight": 0.5, "text_encoder_weight": 0.1},
    ]


@pytest.mark.parametrize("text", [":1", "seal:heavy", "seal:1:1:1", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="NAME:0"):
        adapter_options([text])
