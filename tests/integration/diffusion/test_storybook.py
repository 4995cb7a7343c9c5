"""The embedded profile's own weights, as the repository carries them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from services.diffusion.__main__ import make_service
from services.diffusion.model_folder import EPSILON_SCHEDULERS
from services.diffusion.png import read_parameters
from services.diffusion.settings import DiffusionSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@asynccontextmanager
async def storybook(**settings: object) -> AsyncIterator[grpc.aio.Channel]:
    configured = DiffusionSettings(port=0, **settings)
    server = ServiceServer(make_service(configured), configured)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop()


async def test_the_repository_s_own_model_draws_what_it_is_asked_for(draw):
    path = Catalogue().resolve("storybook", CommonSettings().models_dir)
    assert path.is_dir()
    async with storybook(batch_window_ms=500, max_batch_size=2) as channel:
        cat, sea = await asyncio.gather(
            draw(channel, prompt="a cat in a forest"), draw(channel, prompt="a boat on the sea")
        )
        alone = await draw(channel, prompt="a boat on the sea")
        quick = {
            name: (await draw(channel, scheduler=name, num_inference_steps=4)).pixels() for name in EPSILON_SCHEDULERS
        }
    assert cat.last[0].batch_size == sea.last[0].batch_size == 2
    np.testing.assert_array_equal(sea.pixels(), alone.pixels())
    parameters = read_parameters(cat.files[0])
    assert parameters["model"] == "storybook"
    assert parameters["model_digest"].startswith("sha256:")
    for pixels in (cat.pixels(), sea.pixels()):
        assert pixels.std() > 10, "a picture of one colour"
    assert abs(cat.pixels().astype(int) - sea.pixels()).mean() > 5, "the prompt makes no difference"
    for name, pixels in quick.items():
        assert pixels.std() > 1, name


async def test_any_text_draws_a_picture_or_is_refused(draw):
    odd = {
        "unknown words": "qwrtzpl xkcdwm brrzk",
        "500 words": "a fox in the forest and " * 100,
        "Cyrillic": "рыжая лиса в осеннем лесу",
        "emoji": "🦊🌲✨👩‍👩‍👧",
        "controls": "a fox\x00\x1b[31m\ufeff\u202e in the forest",
    }
    async with storybook(batch_window_ms=0) as channel:
        drawn = {name: await draw(channel, prompt=prompt, num_inference_steps=2) for name, prompt in odd.items()}
        for prompt in ("", " \n"):
            with pytest.raises(InvalidParameter, match="the prompt is empty"):
                await draw(channel, prompt=prompt)
    for name, picture in drawn.items():
        assert picture.pixels().std() > 1, name
    assert read_parameters(drawn["500 words"].files[0])["prompt_dropped"]
