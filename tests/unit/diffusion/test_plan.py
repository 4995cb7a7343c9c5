"""From a request to pictures: defaults, limits, adapters of the right base."""

import asyncio
import json
import math
import struct

import pytest

from narrative.errors import (
    AdapterNotFound,
    ImageUndecodable,
    InvalidParameter,
    ModelNotFound,
    WeightsCorrupt,
    WeightsError,
    WeightsMissing,
)
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from services.diffusion.adapters import WEIGHTS_NAME, AdapterCache
from services.diffusion.engine import Adapter, ImageRequest
from services.diffusion.model_folder import read_card
from services.diffusion.plan import Planner


def safetensors(path, shapes):
    """A file with a header and no more: nothing here reads the numbers."""
    header = json.dumps(
        {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())


def model_folder(folder, class_name="StableDiffusionPipeline", scheduler="PNDMScheduler", **own):
    folder.mkdir(parents=True)
    denoiser = "transformer" if class_name == "FluxPipeline" else "unet"
    index = {"_class_name": class_name, "scheduler": ["diffusers", scheduler], "safety_checker": [None, None]}
    for part in (denoiser, "vae", "text_encoder"):
        index[part] = ["diffusers", "Whatever"]
        safetensors(
            folder / part / "model.safetensors", {"mid.attn.to_q.weight": [32, 16], "text.q_proj.weight": [8, 8]}
        )
    (folder / "model_index.json").write_text(json.dumps(index))
    vae = {"block_out_channels": [1, 1, 1, 1], "latent_channels": 4}
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    unet = {"sample_size": 32, "in_channels": own.pop("in_channels", 8)}
    (folder / denoiser / "config.json").write_text(json.dumps(unet))
    if own:
        (folder / "generation_config.json").write_text(json.dumps(own))
    return folder


@pytest.fixture
def plan(tmp_path, make_settings):
    names = {
        "book": "StableDiffusionPipeline",
        "edit": "StableDiffusionInstructPix2PixPipeline",
        "flux": "FluxPipeline",
    }
    cards = [read_card(name, model_folder(tmp_path / name, kind)) for name, kind in names.items()]
    settings = make_settings()
    planner = Planner(cards, AdapterCache(Objects(settings.objects_url), settings.adapters_folder), settings)
    return lambda prompt="a house", **fields: planner.plan(ImageRequest(prompt, **fields))


def test_a_folder_says_what_it_is(tmp_path):
    card = read_card("book", model_folder(tmp_path / "book"))
    assert (card.family, card.task, card.width, card.height, card.max_side) == ("sd", "text-to-image", 256, 256, 512)
    assert (card.num_steps, card.guidance_scale, card.scheduler) == (30, 7.5, "PNDM")
    own = read_card(
        "own", model_folder(tmp_path / "own", num_inference_steps=12, guidance_scale=2.5, width=128, height=96)
    )
    assert (own.num_steps, own.guidance_scale, own.width, own.height, own.max_side) == (12, 2.5, 128, 96, 256)
    flux = read_card("flux", model_folder(tmp_path / "flux", "FluxPipeline", "FlowMatchEulerDiscreteScheduler"))
    assert (flux.width, flux.size_multiple, flux.schedulers) == (1024, 16, ("FlowMatchEulerDiscrete",))


def test_folders_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(WeightsMissing, match="is missing; a folder in diffusers form"):
        read_card("none", tmp_path)
    with pytest.raises(
        WeightsError, match="'KandinskyPipeline' cannot be run; this service runs StableDiffusionPipeline"
    ):
        read_card("k", model_folder(tmp_path / "k", "KandinskyPipeline"))
    pickled = model_folder(tmp_path / "pickled")
    (pickled / "unet" / "model.safetensors").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="never a pickle"):
        read_card("pickled", pickled)
    foreign = model_folder(tmp_path / "foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps(index | {"unet": ["my_code", "Backdoor"]}))
    with pytest.raises(WeightsError, match="only diffusers and transformers"):
        read_card("foreign", foreign)
    broken = model_folder(tmp_path / "broken")
    (broken / "unet" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(WeightsCorrupt):
        read_card("broken", broken)


def test_defaults_are_filled_in(plan):
    (picture,) = plan()
    settings = picture.settings
    assert (settings.model, settings.width, settings.height) == ("book", 256, 256)
    assert (settings.num_steps, settings.guidance_scale, settings.scheduler) == (30, 7.5, "PNDM")
    assert 0 <= picture.seed < 2**32


def test_pictures_count_their_seeds_up(plan):
    assert [(one.index, one.seed) for one in plan(seed=3, num_images=3)] == [(0, 3), (1, 4), (2, 5)]
    assert [one.seed for one in plan(seed=2**64 - 1, num_images=2)] == [2**64 - 1, 0]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"width": 60}, "width"),
        ({"height": 8}, "height"),
        ({"width": 1024}, "width"),
        ({"num_steps": 151}, "num_inference_steps"),
        ({"num_images": 9}, "num_images"),
        ({"guidance_scale": math.nan}, "guidance_scale"),
        ({"guidance_scale": -math.inf}, "guidance_scale"),
        ({"guidance_scale": 31.0}, "guidance_scale"),
        ({"scheduler": "DPMSolverSDE"}, "scheduler"),
        ({"prompt": "\t"}, "prompt"),
        ({"prompt": "x" * 100_000}, "prompt"),
        ({"negative_prompt": "x" * 4001}, "negative_prompt"),
        ({"seed": -1}, "seed"),
        ({"model": "flux", "width": 72}, "width"),
        ({"model": "edit"}, "model"),
    ],
)
def test_what_is_out_of_range_names_its_field(plan, fields, name):
    with pytest.raises(InvalidParameter) as refused:
        plan(**fields)
    assert refused.value.field == name
    assert len(refused.value.message) < 500


def test_models_that_are_not_there(plan):
    with pytest.raises(ModelNotFound, match="book, edit, flux"):
        plan(model="nobody")


def test_schedulers_are_known_with_and_without_the_suffix(plan):
    assert plan(scheduler="DDIMScheduler")[0].settings == plan(scheduler="DDIM")[0].settings


def test_adapters_are_checked_against_the_base(plan, tmp_path):
    rank, name = 4, "unet.mid.attn.to_q.lora_{}.weight"
    registry = Registry(Objects(str(tmp_path / "objects")), ADAPTERS)
    for adapter, shapes in {
        "fits": {name.format("A"): [rank, 16], name.format("B"): [32, rank]},
        "wide": {name.format("A"): [rank, 64], name.format("B"): [32, rank]},
        "deep": {"unet.up.to_q.lora_A.weight": [rank, 16]},
        "flow": {"transformer.mid.to_q.lora_A.weight": [rank, 16]},
        "none": {"weight": [1]},
        "broken": None,
    }.items():
        file = tmp_path / adapter
        if shapes is None:
            file.write_bytes(b"PK\3\4 a zip or a pickle")
        else:
            safetensors(file, shapes)
        asyncio.run(registry.publish(adapter, {WEIGHTS_NAME: file}, {}))

    def ask(name, weight=1.0, text=1.0):
        return plan(adapters=(Adapter(name, weight, text),))[0].settings.adapters

    assert ask("fits", 0.5) == (Adapter("fits", 0.5, 1.0),)
    assert ask("fits", 0.0, 0.0) == ()
    for misfit, said in {
        "wide": "16 wide in the model and 64",
        "deep": "no layer unet.up.to_q",
        "flow": "transformer, which the model does not have",
        "none": "holds no LoRA",
        "broken": "not a readable safetensors",
    }.items():
        with pytest.raises(InvalidParameter, match=said) as refused:
            ask(misfit)
        assert refused.value.field == "adapters"
    with pytest.raises(AdapterNotFound, match="broken, deep, fits, flow, none, wide"):
        ask("nobody")
    for weight in (math.nan, math.inf, 5.0):
        with pytest.raises(InvalidParameter, match="weight"):
            ask("fits", weight)


@pytest.mark.parametrize("name", ["..", "../adapters", "/tmp", "a/b", "a\\b", "", ".hidden", "ä", "a\n", "a.b"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(InvalidParameter, match="is not a name"):
        AdapterCache(Objects(str(tmp_path / "objects")), tmp_path / "copies").fetch(name)


def test_edits_take_the_size_of_the_picture(plan, png_file):
    (picture,) = plan(source=png_file(130, 94))
    assert picture.source.size == (picture.settings.width, picture.settings.height) == (128, 96)
    assert plan(source=png_file(130, 94), width=64, height=64)[0].source.size == (64, 64)
    with pytest.raises(InvalidParameter, match="multiples of 8 from 64 to 512"):
        plan(source=png_file(2000, 64))
    for name, value in (("image_guidance_scale", math.nan), ("image_guidance_scale", 0.5)):
        with pytest.raises(InvalidParameter, match=name):
            plan(source=png_file(64, 64), **{name: value})


def test_a_large_picture_is_made_smaller(plan, png_file):
    (picture,) = plan(source=png_file(1500, 1000))
    assert picture.source.size == (512, 344)


def test_a_video_has_the_frames_that_its_model_was_made_for(tmp_path, make_settings, png_file):
    kind = "StableDiffusionInstructPix2PixPipeline"
    card = read_card("video", model_folder(tmp_path / "video", kind, in_channels=16))
    settings = make_settings()
    planner = Planner([card], AdapterCache(Objects(settings.objects_url), settings.adapters_folder), settings)

    def plan(*frames):
        return planner.plan(ImageRequest("a house", source=frames[0], later_frames=frames[1:]))

    (picture,) = plan(*[png_file(130, 94)] * 3)
    assert [frame.size for frame in (picture.source, *picture.later_frames)] == [(128, 96)] * 3
    with pytest.raises(InvalidParameter, match="edits the 3 frames of a video; 1 came"):
        plan(png_file(64, 64))
    with pytest.raises(InvalidParameter, match="not all of one size"):
        plan(png_file(64, 64), png_file(64, 64), png_file(72, 64))
    for channels in (4, 10):
        folder = model_folder(tmp_path / f"c{channels}", kind, in_channels=channels)
        with pytest.raises(WeightsError, match=f"{channels} input channels"):
            read_card("video", folder)


def test_sources_that_are_no_pictures(plan, png_file):
    for source in (b"", b"%PDF-1.4", png_file(64, 64)[:50]):
        with pytest.raises(ImageUndecodable) as refused:
            plan(source=source)
        assert refused.value.field == "image"
