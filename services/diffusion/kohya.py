"""The names of layers in LoRA files of kohya's sd-scripts, which most tools write and read.

Stable Diffusion 1.x is trained there on diffusers' own UNet, so its names are diffusers' with underscores; SDXL on the
original one, whose blocks are numbered through. Names are read by diffusers' converters and written by the inverse
below.
"""

import re
from collections.abc import Iterable

from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)

from narrative.errors import InvalidInput

_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
_PEFT = re.compile(r"\.(lora_A|lora\.down|lora_linear_layer\.down)\.weight$")
# Module of the original UNet for one of diffusers', in residual blocks and outside of blocks.
_IN_RESNETS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "add_embedding.linear_2": "label_emb_0_2",
}


class _UNetConfig:
    """What diffusers' converter asks of a UNet's configuration."""

    def __init__(self, layers_per_block: int) -> None:
        self.layers_per_block = layers_per_block


def modules_of(names: Iterable[str], layers_per_block: int) -> dict[str, str]:
    """Modules by kohya's names, as ``unet.down_blocks.0...``: "lora_unet_down_blocks_0_..." and so on.

    Args:
        layers_per_block: of the base's UNet.

    Raises:
        InvalidInput: a name that no layer has.
    """
    # The converters only rename, so that names can go through them in place of weights.
    state = {f"{name}{suffix}": name for name in names for suffix in (_DOWN, _UP)}
    try:
        state = _maybe_map_sgm_blocks_to_diffusers(state, _UNetConfig(layers_per_block))  # type: ignore[no-untyped-call]
        state, _ = _convert_non_diffusers_lora_to_diffusers(state)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, IndexError) as error:
        raise InvalidInput(f"the file has layers that kohya's form does not know: {str(error)[:200]}") from error
    unet = {key: name for key, name in state.items() if key.startswith("unet.")}
    text = {key: name for key, name in state.items() if not key.startswith("unet.")}
    state = convert_unet_state_dict_to_peft(unet)  # type: ignore[no-untyped-call]
    if text:
        state |= convert_state_dict_to_peft(text, StateDictType.DIFFUSERS_OLD)  # type: ignore[no-untyped-call]
    return {name: key[: found.start()] for key, name in state.items() if (found := _PEFT.search(key))}


def name_of(module: str, layers_per_block: int, *, is_sdxl: bool) -> str:
    """Kohya's name of a module such as ``unet.mid_block.attentions.0.proj_in``.

    Raises:
        InvalidInput: it has none.
    """
    component, _, path = module.partition(".")
    if component == "unet":
        path = _in_original_unet(path, layers_per_block + 1) if is_sdxl else path
        return f"lora_unet_{path.replace('.', '_')}"
    prefix = {"text_encoder": "lora_te1" if is_sdxl else "lora_te", "text_encoder_2": "lora_te2"}.get(component)
    if prefix is None:
        raise InvalidInput(f"kohya's form has no name for the {component}; it is for Stable Diffusion 1.x and SDXL")
    path = path.removeprefix("text_model.")
    in_text_model = "" if path == "text_projection" else "text_model_"
    return f"{prefix}_{in_text_model}{path.replace('.', '_')}"


def _in_original_unet(path: str, per_block: int) -> str:
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", path)
    if found:
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if kind == "downsamplers":
            return f"input_blocks_{(block + 1) * per_block}_0_op"
        if kind == "upsamplers":
            return f"output_blocks_{block * per_block + per_block - 1}_2_{rest}"
        number = block * per_block + layer + (side == "down")
        blocks = "input_blocks" if side == "down" else "output_blocks"
        return f"{blocks}_{number}_{_inner(kind, rest)}"
    found = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", path)
    if found:
        kind, layer, rest = found[1], int(found[2]), found[3]
        return f"middle_block_{1 if kind == 'attentions' else 2 * layer}_{_inner(kind, rest)[2:]}"
    raise InvalidInput(f"kohya's form has no name for the layer {path} of SDXL")


def _inner(kind: str, rest: str) -> str:
    return f"0_{_IN_RESNETS.get(rest, rest)}" if kind == "resnets" else f"1_{rest}"
