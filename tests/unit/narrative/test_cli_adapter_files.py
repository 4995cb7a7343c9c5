"""`narrate adapters import`: which file, and which alpha."""

from pathlib import Path

import pytest

from narrative.cli.adapter_files import _alpha_beside, weights_file
from narrative.errors import InvalidInput, InvalidParameter


def test_a_folder_of_a_training_is_as_good_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder with pytorch_lora_weights"):
        weights_file(tmp_path)
    with pytest.raises(InvalidInput, match=r"missing\.safetensors: no such file"):
        weights_file(tmp_path / "missing.safetensors")
    weights = tmp_path / "pytorch_lora_weights.safetensors"
    weights.touch()
    assert weights_file(tmp_path) == weights_file(weights) == weights
    assert _alpha_beside(weights) is None


def test_alpha_is_read_where_peft_keeps_it(tmp_path: Path) -> None:
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    weights.touch()
    assert _alpha_beside(weights) is None
    config.write_text('{"lora_alpha": 32}')
    assert _alpha_beside(weights) == 32.0
    config.write_text("{}")
    with pytest.raises(InvalidParameter, match="give --alpha"):
        _alpha_beside(weights)
