"""Weights that move and come back as they were."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from narrative.errors import OutOfMemory
from services.diffusion.packed_weights import PackedWeights


class Model(nn.Module):
    """Tied weights, a buffer, a scalar, several dtypes and memory formats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.embedding = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.extra = nn.Parameter(torch.randn(5, 7).to(torch.bfloat16))
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("positions", torch.arange(6), persistent=False)
        self.conv.to(memory_format=torch.channels_last)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for group in (model.named_parameters(), model.named_buffers()) for name, tensor in group}


@pytest.mark.parametrize("host", ["memory", "disk"])
def test_after_a_round_trip_every_bit_and_stride_is_as_it_was(host: str, tmp_path: Path):
    model = Model()
    before = {name: (tensor.detach().clone(), tensor.stride()) for name, tensor in tensors(model).items()}
    weights = PackedWeights([model], host, tmp_path)
    for _ in range(3):
        weights.load("host:0")
        for name, tensor in tensors(model).items():
            expected, stride = before[name]
            assert torch.equal(tensor, expected), name
            assert tensor.stride() == stride, name
        assert model.head.weight is model.embedding.weight
        weights.offload()
    weights.close()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_converted_on_the_device_comes_back_as_it_was_packed():
    model = nn.Conv2d(3, 8, 3).to(torch.float16)
    before = model.weight.detach().clone()
    weights = PackedWeights([model], "memory")
    weights.load("host:0")
    model.to(torch.float32)
    weights.offload()
    weights.load("host:0")
    assert model.weight.dtype is torch.float16
    assert torch.equal(model.weight, before)


def test_an_away_model_cannot_be_used_by_mistake():
    model = Model()
    PackedWeights([model], "memory")
    assert sum(tensor.numel() for tensor in tensors(model).values()) == 0
    with pytest.raises(RuntimeError):
        model.conv(torch.zeros(1, 3, 8, 8))


def test_tensors_added_and_removed_on_the_device_travel_too():
    model = Model()
    weights = PackedWeights([model], "memory")
    weights.load("host:0")
    model.adapter = nn.Linear(4, 4)
    added = model.adapter.weight.detach().clone()
    del model.extra
    weights.offload()
    assert model.adapter.weight.numel() == 0
    weights.load("host:0")
    assert torch.equal(model.adapter.weight, added)


def test_offloading_gives_the_memory_back():
    # In a process of its own: an allocator that other tests have fed may serve the copy from what it has kept.
    code = """
        import gc, psutil
        from torch import nn
        from services.diffusion.packed_weights import PackedWeights

        weights = PackedWeights([nn.Linear(4096, 4096)], "memory")
        process = psutil.Process()
        gc.collect()
        away = process.memory_info().rss
        weights.load("host:0")
        there = process.memory_info().rss
        weights.offload()
        assert there - away > 0.9 * weights.num_bytes, "a real copy"
        assert process.memory_info().rss - away < 0.1 * weights.num_bytes
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_no_room_is_tried_twice_and_then_said(monkeypatch: pytest.MonkeyPatch):
    weights = PackedWeights([Model()], "memory")
    tried = []

    def full(target: torch.device) -> torch.Tensor:
        tried.append(target)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(weights, "_copy_to", full)
    with pytest.raises(OutOfMemory, match="bytes are free on host:0"):
        weights.load("host:0")
    assert len(tried) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_loaded_is_not_overwritten_by_what_another_model_still_computes():
    model = nn.Linear(2048, 2048)
    before = model.weight.detach().clone()
    weights = PackedWeights([model], "memory")
    for _ in range(10):
        scratch = torch.empty(weights.num_bytes, dtype=torch.uint8, device="cuda:0")
        # Written long after its memory was given up.
        torch.cuda._sleep(100_000_000)
        scratch.fill_(7)
        del scratch
        weights.load("cuda:0")
        torch.cuda.synchronize()
        assert torch.equal(model.weight.cpu(), before)
        weights.offload()
