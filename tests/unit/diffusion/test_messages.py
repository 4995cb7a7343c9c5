"""Requests and events survive the way through messages."""

import pytest

from services.diffusion.engine import Adapter, Image, ImageRequest, Step
from services.diffusion.messages import read_event, read_options, write_event, write_options


@pytest.mark.parametrize(
    "request_",
    [
        ImageRequest("a fox"),
        ImageRequest("a fox", seed=0, guidance_scale=0.0, image_guidance_scale=1.0, source=b"picture"),
        ImageRequest(
            "a fox", "storybook", "grey", 2**64 - 1, 2, 20, 4.5, 256, 128, "DDIM", (Adapter("pen", 0.8, 0.0),)
        ),
    ],
)
def test_a_request_comes_back_as_it_was(request_: ImageRequest) -> None:
    plain = ImageRequest(**{**request_.__dict__, "num_images": request_.num_images or 1})

    assert read_options(write_options(plain), plain.source) == plain


@pytest.mark.parametrize("event", [Step(1, 2, 3), Image(1, b"png" * 1_000_000, 2**64 - 1, 128, 64, 0.1, 4)])
def test_an_event_comes_back_as_it_was(event: Step | Image) -> None:
    assert read_event(write_event(event)) == event
