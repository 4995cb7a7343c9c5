"""LoRA on linear layers with less memory than peft takes: the same numbers, and the same random draws.

As peft computes ``result + B(A(dropout(x))) * scaling``, autograd keeps the dropped input and the mask, both float32
and as large as the input, and four tensors as large as the result come and go. Here the mask is kept as bytes beside
the input itself, which the layers that share it (queries and values) keep once, and the sum is made in place.
"""

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
        kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - probability) if probability else None
        # What dropout multiplies the rest with is put on the narrow side, of as many columns as the rank.
        ctx.scaling, ctx.spread = scaling, 1 / (1 - probability)
        narrow = _rows(_masked(x.to(result.dtype), kept)) @ down.to(result.dtype).T * ctx.spread
        # A view, never a copy, which the sum would not reach.
        result.view(-1, result.shape[-1]).addmm_(narrow, up.to(result.dtype).T, alpha=scaling)
        ctx.mark_dirty(result)
        ctx.save_for_backward(x, kept, narrow, down, up)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, kept, narrow, down, up = ctx.saved_tensors
        rows = _rows(gradient)
        inner = rows @ up.to(gradient.dtype) * (ctx.scaling * ctx.spread)
        # This way round the long side of ``rows`` is read in order.
        up_gradient = (narrow.T @ rows * ctx.scaling).T.to(up.dtype)
        down_gradient = (inner.T @ _rows(_masked(x.to(gradient.dtype), kept))).to(down.dtype)
        x_gradient = None
        if ctx.needs_input_grad[1]:
            x_gradient = _masked((inner @ down.to(gradient.dtype)).view_as(x), kept).to(x.dtype)
        return gradient, x_gradient, down_gradient, up_gradient, None, None


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _masked(tensor: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    # As bytes: a product of floats and booleans takes almost three times as long.
    return tensor if kept is None else tensor * kept.view(torch.uint8)
