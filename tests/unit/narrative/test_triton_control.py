"""Models of a Triton server that are booked on one GPU; the server here is made up."""

from types import SimpleNamespace

import pytest
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from narrative.errors import NarrativeError, ServiceUnavailable
from narrative.runtime.triton_control import TritonControl
from narrative.settings import TritonSettings


class Server:
    """A server whose instances run on some GPUs.

    Args:
        groups: the GPUs of each instance group; KIND_AUTO comes back as the GPUs that it stands for.
    """

    def __init__(self, *groups: list[int]) -> None:
        self.config = model_config_pb2.ModelConfig()
        for gpus in groups:
            self.config.instance_group.add(gpus=gpus)
        self.loaded = False
        self.is_silent = False

    def is_model_ready(self, model: str, **_: float) -> bool:
        return self.loaded

    def get_model_repository_index(self, **_: float) -> SimpleNamespace:
        return SimpleNamespace(models=[SimpleNamespace(name="asr", state="READY")])

    def load_model(self, model: str, **_: float) -> None:
        self.loaded = True

    def unload_model(self, model: str, **_: float) -> None:
        self.loaded = False

    def get_model_config(self, model: str, **_: float) -> SimpleNamespace:
        assert self.loaded
        if self.is_silent:
            raise InferenceServerException("Deadline Exceeded", status="StatusCode.DEADLINE_EXCEEDED")
        return SimpleNamespace(config=self.config)


def control(server: Server) -> TritonControl:
    return TritonControl(server, TritonSettings(port=0, triton_model="asr"), "here")


@pytest.mark.parametrize("groups", [[[0, 1]], [[0], [1]]])
def test_a_model_on_more_gpus_than_are_booked_is_refused_and_unloaded(groups: list[list[int]]) -> None:
    server = Server(*groups)
    with pytest.raises(NarrativeError, match="on the GPUs 0, 1") as caught:
        control(server).load(on_one_gpu=True)
    assert not isinstance(caught.value, ServiceUnavailable), "to try again would load it again"
    assert not server.loaded


def test_a_model_of_which_nobody_says_where_it_runs_is_unloaded() -> None:
    server = Server([0])
    server.is_silent = True
    with pytest.raises(NarrativeError):
        control(server).load(on_one_gpu=True)
    assert not server.loaded


@pytest.mark.parametrize("groups", [[[1]], [[0], [0]], [[]]])
def test_a_model_on_one_gpu_or_none_is_loaded(groups: list[list[int]]) -> None:
    server = Server(*groups)
    control(server).load(on_one_gpu=True)
    assert server.loaded


def test_where_nothing_is_booked_a_model_may_have_every_gpu() -> None:
    server = Server([0, 1])
    control(server).load()
    assert server.loaded
