"""What the models share inside Triton, without the server."""

import importlib
import os
import sys
from types import ModuleType

import pytest


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    monkeypatch.delitem(sys.modules, "narrative.runtime.triton_backend", raising=False)
    return importlib.import_module("narrative.runtime.triton_backend")


@pytest.mark.parametrize(
    ("shown", "device", "taken"),
    [
        (None, "1", "1"),
        ("", "0", "0"),
        ("1", "0", "1"),
        ("2, 0", "1", "0"),
        ("GPU-aaaa,GPU-bbbb", "1", "GPU-bbbb"),
    ],
)
def test_an_instance_takes_its_gpu_among_those_that_the_server_was_shown(
    backend: ModuleType, shown: str | None, device: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown or "")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    args = {"model_instance_kind": "GPU", "model_instance_device_id": device}
    assert backend.take_device(args) == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == taken


def test_an_instance_on_the_cpu_leaves_the_gpus_as_they_are(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert backend.take_device({"model_instance_kind": "CPU", "model_instance_device_id": "0"}) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
