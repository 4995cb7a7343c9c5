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


class _DropoutOfTheSamePlaces(nn.Module):
    """Dropout as it is defined, of the elements that ours would take."""

    def forward(self, x):
        places = lora._places(x, 0.3)
        mask = torch.ones(x.numel())
        mask[places[places < x.numel()]] = 0
        return x * mask.view(x.shape) / 0.7


def _outcome(net, inputs):
    torch.manual_seed(5)
    inputs = inputs.clone().requires_grad_()
    output = net(inputs)
    output.square().mean().backward()
    return [output.detach(), inputs.grad, *(weight.grad for weight in net.parameters() if weight.requires_grad)]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_peft(layers, training):
    inputs = torch.randn(2, 7, 24)
    if training:
        for layer in (layers[0][0], layers[0][2]):
            layer.lora_dropout["default"] = _DropoutOfTheSamePlaces()
    plain, frugal = (_outcome(net.train(training), inputs) for net in layers)
    assert len(plain) == 6
    assert all(torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6) for ours, theirs in zip(frugal, plain, strict=True))


def test_each_element_is_dropped_as_often_as_it_should_and_by_itself():
    torch.manual_seed(1)
    x = torch.empty(10, 5)
    dropped = torch.zeros(4000, 50)
    for row in dropped:
        places = lora._places(x, 0.2)
        assert torch.equal(places, places.sort().values)
        row[places[places < 50]] = 1
    # Six standard deviations of a share of 4000.
    assert torch.allclose(dropped.mean(0), torch.tensor(0.2), rtol=0, atol=0.038)
    assert abs(dropped.mean() - 0.2) < 6 * (0.16 / 200_000) ** 0.5
    assert torch.allclose((dropped[:, :-1] * dropped[:, 1:]).mean(0), torch.tensor(0.04), rtol=0, atol=0.019)
    assert dropped.sum(1).var() == pytest.approx(50 * 0.16, rel=0.15)


@pytest.mark.parametrize("probability", [1e-6, 0.999])
def test_hardly_any_and_almost_all_can_be_dropped(probability):
    places = lora._places(torch.empty(1000), probability)
    assert (places < 1000).float().sum() == pytest.approx(1000 * probability, abs=10)


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
            net.train()(torch.randn(4000, 24, requires_grad=True))
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
