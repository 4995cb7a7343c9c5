"""The real pipeline classes with tiny random weights, over real gRPC."""

import asyncio

import numpy as np
import pytest

from narrative.v1 import common_pb2, common_pb2_grpc
from services.diffusion.png import read_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TEXT_MODELS = ("sd", "sdxl", "flux")


@pytest.mark.parametrize("model", TEXT_MODELS)
async def test_a_picture_comes_back_with_its_steps_and_parameters(serve, draw, model):
    async with serve(model) as channel:
        drawing = await draw(channel, num_inference_steps=4, guidance_scale=3.0, negative_prompt="cat")
    assert drawing.steps == [(0, step, 4) for step in range(1, 5)]
    assert drawing.pixels().shape == (64, 64, 3)
    parameters = read_parameters(drawing.files[0])
    assert parameters["prompt"] == "a red house"
    assert parameters["negative_prompt"] == "cat"
    assert (parameters["seed"], parameters["num_inference_steps"], parameters["guidance_scale"]) == (7, 4, 3.0)
    assert parameters["model"] == model
    chunk = drawing.last[0]
    assert (chunk.seed, chunk.width, chunk.height, chunk.batch_size) == (7, 64, 64, 1)
    assert chunk.duration_s > 0


@pytest.mark.parametrize("model", TEXT_MODELS)
async def test_a_picture_is_the_same_alone_and_in_a_batch(serve, draw, model):
    """Every picture of a batch equals the one drawn alone, pixel for pixel."""
    prompts = ["a red house", "the cat on the hill", "a a a"]
    async with serve(model, batch_window_ms=500.0, max_batch_size=3) as channel:
        together = await asyncio.gather(
            *(draw(channel, prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts))
        )
    assert [drawing.last[0].batch_size for drawing in together] == [3, 3, 3]
    async with serve(model, batch_window_ms=0.0) as channel:
        for seed, prompt in enumerate(prompts):
            alone = await draw(channel, prompt=prompt, seed=seed)
            assert alone.last[0].batch_size == 1
            np.testing.assert_array_equal(alone.pixels(), together[seed].pixels())


async def test_pictures_of_one_request_have_seeds_of_their_own(serve, draw):
    async with serve("sd", batch_window_ms=200.0, max_batch_size=4) as channel:
        many = await draw(channel, num_images=3, seed=40)
        third = await draw(channel, seed=42)
        unseeded = [await draw(channel, seed=None) for _ in range(2)]
    assert [many.last[index].seed for index in range(3)] == [40, 41, 42]
    np.testing.assert_array_equal(many.pixels(2), third.pixels())
    assert (many.pixels(0) != many.pixels(1)).any()
    assert unseeded[0].last[0].seed != unseeded[1].last[0].seed


async def test_the_largest_seed_wraps_around(serve, draw):
    async with serve("sd") as channel:
        drawing = await draw(channel, seed=2**64 - 1, num_images=2)
    assert [drawing.last[index].seed for index in range(2)] == [2**64 - 1, 0]


async def test_prompt_guidance_negative_prompt_and_size_all_matter(serve, draw):
    async with serve("sd") as channel:
        base = await draw(channel)
        for change in ({"prompt": "cat"}, {"guidance_scale": 9.0}, {"negative_prompt": "cat"}, {"seed": 8}):
            assert ((await draw(channel, **change)).pixels() != base.pixels()).any(), change
        wide = await draw(channel, width=96, height=72)
    assert wide.pixels().shape == (72, 96, 3)


async def test_defaults_come_from_the_model_folder(serve, draw):
    async with serve("sd") as channel:
        drawing = await draw(channel)
    parameters = read_parameters(drawing.files[0])
    assert (parameters["num_inference_steps"], parameters["guidance_scale"]) == (3, 4.0)
    assert parameters["scheduler"] == "PNDM"


async def test_every_scheduler_draws_and_reports_every_step(serve, draw):
    """Also alone against batched: the noise of ancestral schedulers must not depend on the neighbours."""
    from services.diffusion.model_folder import EPSILON_SCHEDULERS

    seen = {}
    async with serve("sd", batch_window_ms=100.0, max_batch_size=2) as channel:
        for scheduler in EPSILON_SCHEDULERS:
            pair = await draw(channel, scheduler=scheduler, num_inference_steps=5, num_images=2)
            single = await draw(channel, scheduler=f"{scheduler}Scheduler", num_inference_steps=5, seed=8)
            assert [step for index, step, of in pair.steps if index == 0 and of == 5] == [1, 2, 3, 4, 5], scheduler
            np.testing.assert_array_equal(pair.pixels(1), single.pixels(), err_msg=scheduler)
            seen[scheduler] = pair.pixels(0).tobytes()
            for few in (1, 2):
                assert (await draw(channel, scheduler=scheduler, num_inference_steps=few)).files, (scheduler, few)
    assert len(set(seen.values())) > len(seen) // 2


async def test_a_long_prompt_says_what_the_model_did_not_read(serve, draw):
    async with serve("sd") as channel:
        short = await draw(channel)
        long = await draw(channel, prompt="house " * 40 + "cat")
    assert "prompt_dropped" not in read_parameters(short.files[0])
    assert read_parameters(long.files[0])["prompt_dropped"].replace(" ", "").endswith("cat")


async def test_models_are_listed_and_chosen_by_name(serve, draw):
    async with serve("sd", "pix2pix", "sdxl") as channel:
        listed = (await common_pb2_grpc.ModelServiceStub(channel).ListModels(common_pb2.ListModelsRequest())).models
        drawing = await draw(channel, model="sdxl", num_inference_steps=1)
    assert [(model.id, model.task, model.is_default) for model in listed] == [
        ("sd", common_pb2.TASK_TEXT_TO_IMAGE, True),
        ("pix2pix", common_pb2.TASK_IMAGE_EDITING, True),
        ("sdxl", common_pb2.TASK_TEXT_TO_IMAGE, False),
    ]
    assert read_parameters(drawing.files[0])["model"] == "sdxl"


async def test_a_picture_is_edited_and_batched_like_any_other(serve, edit, picture_file):
    async with serve("pix2pix", batch_window_ms=500.0, max_batch_size=2) as channel:
        first, second = await asyncio.gather(
            edit(channel, picture_file(kind="JPEG"), num_inference_steps=3),
            edit(channel, picture_file(colour="blue"), num_inference_steps=3),
        )
        alone = await edit(channel, picture_file(colour="blue"), num_inference_steps=3)
        closer = await edit(channel, picture_file(colour="blue"), num_inference_steps=3, image_guidance_scale=5.0)
        odd = await edit(channel, picture_file(70, 90), num_inference_steps=1)
    assert first.steps == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]
    assert first.last[0].batch_size == second.last[0].batch_size == 2
    assert (first.pixels() != second.pixels()).any()
    np.testing.assert_array_equal(second.pixels(), alone.pixels())
    assert (closer.pixels() != alone.pixels()).any()
    assert odd.pixels().shape == (88, 72, 3)
