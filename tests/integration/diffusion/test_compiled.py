"""A compiled denoiser: one graph for every size, scheduler and adapter, and pictures as without. Takes minutes."""

import logging

import numpy as np
import pytest
from torch._dynamo.utils import counters

from narrative.v1 import diffusion_pb2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def adapter(name, weight):
    return diffusion_pb2.Adapter(name=name, weight=weight)


@pytest.fixture(autouse=True)
def traced_quietly(monkeypatch):
    """Tracing logs a hundred thousand lines, which pytest would keep."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
async def test_sizes_schedulers_and_adapters_do_not_compile_again(serve, draw, backend):
    asked = [
        {},
        {"adapters": [adapter("seal", 0.1)]},
        {"adapters": [adapter("mist", 0.05), adapter("seal", -0.03)], "width": 96},
        {"height": 72, "scheduler": "EulerDiscrete"},
        {"width": 72, "height": 96},
    ]
    async with serve("sd") as channel:
        expected = [(await draw(channel, num_inference_steps=2, **fields)).pixels() for fields in asked]
    async with serve("sd", compile=True, compile_backend=backend) as channel:
        graphs = counters["stats"]["unique_graphs"]
        assert graphs, "it was compiled when it was warmed up"
        for fields, plain in zip(asked, expected, strict=True):
            picture = (await draw(channel, num_inference_steps=2, **fields)).pixels()
            again = (await draw(channel, num_inference_steps=2, **fields)).pixels()
            np.testing.assert_array_equal(picture, again)
            assert np.abs(np.subtract(plain, picture, dtype=int)).max() <= 1, fields
            assert counters["stats"]["unique_graphs"] == graphs, fields
