"""The adapters' own way to compute, against peft's."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from services.trainer import lora


@pytest.fixture
def layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 20))
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=["0", "2"], init_lora_weights=False)
    plain = inject_adapter_in_model(config, net)
    frugal = copy.deepcopy(plain)
    lora.save_memory(frugal)
    return plain, frugal


def _outcome(net, inputs):
    torch.manual_seed(5)
    inputs = inputs.clone().requires_grad_()
    output = net(inputs)
    output.square().mean().backward()
    return [output.detach(), inputs.grad, *(weight.grad for weight in net.parameters() if weight.requires_grad)]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_peft(layers, training):
    inputs = torch.randn(2, 7, 24)
    plain, frugal = (_outcome(net.train(training), inputs) for net in layers)
    assert len(plain) == 6
    assert all(torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6) for ours, theirs in zip(frugal, plain, strict=True))


def test_half_precision_differs_by_rounding_only(layers):
    with torch.autocast("cpu", torch.bfloat16):
        plain, frugal = (net.eval()(torch.ones(3, 24)) for net in layers)
    assert frugal.dtype == torch.bfloat16
    assert torch.allclose(frugal, plain, rtol=0.02, atol=0.02)


def test_autograd_keeps_less(layers):
    def kept_bytes(net):
        storages = {}
        weights = {weight.untyped_storage().data_ptr() for weight in net.parameters()}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net.train()(torch.randn(100, 24, requires_grad=True))
        return sum(storage.nbytes() for storage in storages.values())

    plain, frugal = map(kept_bytes, layers)
    assert frugal < 0.75 * plain


def test_what_is_merged_is_what_peft_merges(layers):
    for net in layers:
        for layer in (net[0], net[2]):
            layer.merge(safe_merge=layer is net[0])
    inputs = torch.randn(3, 24)
    assert torch.equal(layers[0](inputs), layers[1](inputs))
    for net in layers:
        for layer in (net[0], net[2]):
            layer.unmerge()
    assert torch.equal(layers[0][0].weight, layers[1][0].weight)
