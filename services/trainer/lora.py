"""LoRA on linear layers with less memory and time than peft takes, and the same numbers.

As peft computes ``result + B(A(dropout(x))) * scaling``, autograd keeps the dropped input and the mask, both float32
and as large as the input, and four tensors as large as the result come and go. Here the places of what was dropped
are kept beside the input itself, which the layers that share it (queries and values) keep once, and the sum is made in
place.
"""

import math
from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import nn
from torch.autograd.function import once_differentiable


def save_memory(module: nn.Module) -> None:
    """Has the adapters of all linear layers below ``module`` computed so; weights and their names stay as they are."""
    for layer in module.modules():
        if type(layer) is Linear:
            layer.lora_variant |= {name: _Frugal() for name in layer.lora_A.keys() - layer.lora_variant.keys()}


class _Frugal(LoraVariant):
    """Where peft asks for the sum; what is merged is what peft merges."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> torch.Tensor:
        dropout = module.lora_dropout[active_adapter]
        total: torch.Tensor = _Sum.apply(  # type: ignore[no-untyped-call]
            result,
            x,
            module.lora_A[active_adapter].weight,
            module.lora_B[active_adapter].weight,
            module.scaling[active_adapter],
            dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0,
        )
        return total

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        merged: torch.Tensor = orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)
        return merged

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> None:
        orig_weight.data += module.get_delta_weight(active_adapter)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        base: torch.Tensor = orig_weight.data - module.get_delta_weight(active_adapter).to(orig_weight.dtype)
        return base


class _Sum(torch.autograd.Function):
    """``result`` (..., out) plus ``scaling`` x dropout(x) (..., in) x down.T (in, rank) x up.T (rank, out), in place.

    Computed in the type of ``result``, which is autocast's where that is on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        result: torch.Tensor,
        x: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        probability: float,
    ) -> torch.Tensor:
        dropped = _places(x, probability) if probability else None
        # What dropout multiplies the rest with is put on the narrow side, of as many columns as the rank.
        ctx.scaling, ctx.spread = scaling, 1 / (1 - probability)
        narrow = _rows(_without(x.to(result.dtype), dropped)) @ down.to(result.dtype).T * ctx.spread
        # Autograd is not told of the change: for that of a view, which a layer's result is, it would copy gradients
        # three times. Nothing else needs what the layer alone gave.
        total = result.detach()
        # A view, never a copy, which the sum would not reach.
        total.view(-1, total.shape[-1]).addmm_(narrow, up.to(result.dtype).T, alpha=scaling)
        ctx.save_for_backward(x, dropped, narrow, down, up)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, dropped, narrow, down, up = ctx.saved_tensors
        rows = _rows(gradient)
        inner = rows @ up.to(gradient.dtype) * (ctx.scaling * ctx.spread)
        # This way round the long side of ``rows`` is read in order.
        up_gradient = (narrow.T @ rows * ctx.scaling).T.to(up.dtype)
        down_gradient = (inner.T @ _rows(_without(x.to(gradient.dtype), dropped))).to(down.dtype)
        x_gradient = None
        if ctx.needs_input_grad[1]:
            x_gradient = _without((inner @ down.to(gradient.dtype)).view_as(x), dropped).to(x.dtype)
        return gradient, x_gradient, down_gradient, up_gradient, None, None


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _places(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Which elements of ``x`` dropout takes, each with ``probability``: their places, rising, int32; the end is padded.

    Drawn by the gaps between them, which are geometric: where one in twenty goes, a fifth of the time of a draw for
    each element. How many are drawn is fixed, so that a GPU is not waited for: eight standard deviations more than are
    expected, and what lies behind ``x`` becomes its length.
    """
    expected = x.numel() * probability
    draws = math.ceil(expected + 8 * math.sqrt(expected)) + 32
    gaps = torch.empty(draws, dtype=torch.float64, device=x.device).geometric_(probability)
    return gaps.long().cumsum(0).sub_(1).clamp_(max=x.numel()).int()


def _without(tensor: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    if places is None:
        return tensor
    # One more, for the places behind the end.
    elements = tensor.new_empty(tensor.numel() + 1)
    kept = elements[:-1].view(tensor.shape)
    kept.copy_(tensor)
    elements.index_fill_(0, places.long(), 0)
    return kept
