"""The model repository of Triton, as far as it can be checked without the server."""

import ast
import importlib
import os
import runpy
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from narrative.runtime import triton

TRITON = Path(__file__).parents[3] / "deploy" / "triton"
MODELS = sorted((TRITON / "models").iterdir())


def config(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


class Started(Exception):
    """In place of the server."""


def test_the_server_bears_the_pings_of_a_service_whose_call_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.touch()
    started: list[str] = []

    def start(_: Path, arguments: list[str], environment: dict[str, str]) -> None:
        started.extend(arguments)
        raise Started

    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    monkeypatch.setattr(os, "execve", start)
    with pytest.raises(Started):
        runpy.run_path(str(TRITON / "serve.py"))["main"](["--http-port=1"])
    options = dict(option.partition("=")[::2] for option in started[1:])

    bears_ms = int(options["--grpc-http2-min-recv-ping-interval-without-data"])
    assert bears_ms < dict(triton._OPTIONS)["grpc.keepalive_time_ms"]
    assert options["--http-port"] == "1"


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_model_is_named_as_its_folder_and_runs_on_every_gpu_without_a_bound_on_its_queue(model: Path) -> None:
    read = config(model)

    assert read.name == model.name
    assert read.backend == "python"
    assert read.HasField("dynamic_batching") == (read.max_batch_size > 1)
    # With one, Triton leaves requests lying: see the README there.
    assert not read.dynamic_batching.default_queue_policy.max_queue_size
    assert [group.kind for group in read.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_service_asks_for_the_model_by_its_name(model: Path) -> None:
    settings = importlib.import_module(f"services.{model.name}.settings")
    (cls,) = [one for name, one in vars(settings).items() if name.lower() == f"{model.name}settings"]

    assert cls.model_fields["triton_model"].default == model.name


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_model_reads_and_writes_the_tensors_of_its_configuration(model: Path) -> None:
    code = ast.parse((model / "1" / "model.py").read_text())
    read = config(model)
    words = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}
    words |= {node.arg for node in ast.walk(code) if isinstance(node, ast.keyword)}

    assert {tensor.name for tensor in [*read.input, *read.output]} <= words
