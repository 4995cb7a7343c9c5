"""The real CTranslate2 engine with tiny random models, converted on the spot: the wiring is under test, not quality."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import sentencepiece
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
)

from narrative.errors import InvalidParameter, OutOfMemory, WeightsCorrupt, WeightsMissing
from narrative.v1 import translation_pb2
from services.residency.settings import ResidencySettings
from services.translation.engine import EngineSet
from services.translation.engine_ctranslate2 import CTranslate2Engine
from services.translation.servicer import TranslationServicer
from services.translation.settings import TranslationSettings
from tests.integration.residency.residency_node import Node, Noted, hold
from tests.shortage import shortage

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

CORPUS = [
    "На фотографии маленькая девочка сидит на зелёной траве рядом с большой собакой.",
    "Две кошки спят на мягком диване, а третья смотрит в окно.",
    "A little girl is sitting on the green grass next to a big dog.",
    "Two cats are sleeping on a soft sofa and the third is looking out the window.",
]
SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def sentencepiece_model(folder: Path) -> Path:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5),
        model_prefix=str(folder / "spm"),
        vocab_size=78,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return folder / "spm.model"


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Marian model as OPUS publishes them, converted to CTranslate2."""
    work, source = tmp_path_factory.mktemp("spm"), tmp_path_factory.mktemp("marian")
    spm = sentencepiece_model(work)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    pieces = [processor.id_to_piece(i) for i in range(3, processor.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    for name in ("source.spm", "target.spm"):
        (source / name).write_bytes(spm.read_bytes())
    torch.manual_seed(0)
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary), max_position_embeddings=512, pad_token_id=pad, eos_token_id=0,
        decoder_start_token_id=pad, forced_eos_token_id=0, bos_token_id=None, **SIZES,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(source)
    MarianTokenizer(
        str(source / "source.spm"), str(source / "target.spm"), str(source / "vocab.json"), source_lang="ru"
    ).save_pretrained(source)
    target = tmp_path_factory.mktemp("converted") / "marian"
    TransformersConverter(str(source), copy_files=["source.spm", "target.spm"]).convert(str(target))
    return target


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NLLB model of two languages, converted to CTranslate2."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = NllbTokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        additional_special_tokens=["eng_Latn", "rus_Cyrl"],
    )
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        decoder_start_token_id=2, init_std=0.5, **SIZES,
    )  # fmt: skip
    source = tmp_path_factory.mktemp("nllb")
    M2M100ForConditionalGeneration(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    target = tmp_path_factory.mktemp("converted") / "nllb"
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(target))
    return target


def make_engine(model: Path, **settings: object) -> CTranslate2Engine:
    engine = CTranslate2Engine(TranslationSettings(ctranslate2_model=str(model), threads=1, beam_size=1, **settings))
    engine.load()
    return engine


def test_marian_translates_in_order_and_alone_as_in_a_batch(marian: Path) -> None:
    engine = make_engine(marian)
    together = engine.translate(CORPUS[:2], "ru", "en")
    assert together == [engine.translate([text], "ru", "en")[0] for text in CORPUS[:2]]
    assert all(together)
    assert engine.info.sources == ("ru",)
    assert engine.info.targets == ("en",)


def test_long_text_is_translated_whole(marian: Path) -> None:
    engine = make_engine(marian)
    one = engine.translate([CORPUS[0]], "ru", "en")[0]
    assert engine.translate([" ".join([CORPUS[0]] * 40)], "ru", "en") == [" ".join([one] * 40)]


def test_the_first_caller_waits_for_no_warming_up(marian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked = []
    translate = ctranslate2.Translator.translate_batch

    def noted(self: ctranslate2.Translator, *batch: object, **options: object) -> object:
        worked.append(batch)
        return translate(self, *batch, **options)

    monkeypatch.setattr(ctranslate2.Translator, "translate_batch", noted)
    make_engine(marian)
    assert len(worked) == 1


def test_line_breaks_are_kept(marian: Path) -> None:
    engine = make_engine(marian)
    one, two = engine.translate(CORPUS[:2], "ru", "en")
    assert engine.translate([f"{CORPUS[0]}\n\n{CORPUS[1]}"], "ru", "en") == [f"{one}\n\n{two}"]


def test_nllb_is_told_apart_and_translates_both_ways(nllb: Path) -> None:
    engine = make_engine(nllb, ctranslate2_languages=["ru", "en"])
    to_english = engine.translate(CORPUS[:2], "ru", "en")
    to_russian = engine.translate(CORPUS[:2], "en", "ru")
    assert all(to_english)
    assert to_english != to_russian  # The codes of the languages reach the model.
    assert not any(code in text for text in to_english + to_russian for code in ("eng_Latn", "rus_Cyrl", "</s>"))
    assert engine.info.targets == ("ru", "en")


def test_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsMissing, match=r"source\.spm"):
        make_engine(tmp_path)


def test_broken_weights_are_refused(marian: Path, tmp_path: Path) -> None:
    for file in marian.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(WeightsCorrupt):
        make_engine(tmp_path)


def test_broken_tokenizer_is_refused(nllb: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes((nllb / "model.bin").read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsCorrupt, match=r"tokenizer\.json"):
        make_engine(tmp_path)


def test_language_without_a_flores_code_is_refused(nllb: Path) -> None:
    with pytest.raises(InvalidParameter, match="no FLORES code for xx"):
        make_engine(nllb, ctranslate2_languages=["ru", "xx"])


def test_short_memory_is_tried_twice_and_then_said(marian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = shortage(monkeypatch, ctranslate2, "Translator")
    reading.failures = 1
    engine = make_engine(marian)
    expected = engine.translate(CORPUS[:2], "ru", "en")
    reading.failures = 2
    with pytest.raises(OutOfMemory, match="cpu has no room for marian"):
        make_engine(marian)

    assert engine._translator is not None
    waking = shortage(monkeypatch, type(engine._translator.model), "load_model")
    working = shortage(monkeypatch, type(engine._translator.model), "translate_batch")
    engine._translator.offload()
    waking.failures = working.failures = 1
    engine._translator.load("cpu")
    assert engine.translate(CORPUS[:2], "ru", "en") == expected
    working.failures = 2
    with pytest.raises(OutOfMemory, match="no room on cpu for 2 sentences"):
        engine.translate(CORPUS[:2], "ru", "en")
    engine._translator.offload()
    waking.failures = 2
    with pytest.raises(OutOfMemory, match="cpu has no room for marian"):
        engine._translator.load("cpu")
    engine._translator.load("cpu")
    assert engine.translate(CORPUS[:2], "ru", "en") == expected


@asynccontextmanager
async def turns(marian: Path) -> AsyncIterator[tuple[Node, CTranslate2Engine, Any]]:
    """A device, an engine on it, and another owner whose model sdxl fits there only alone."""
    sizes: dict[str, Any] = {"devices": {"host:0": "10MiB"}, "recovery_s": 0.0, "min_resident_s": 0.0, "drain_s": 0.1}
    node = Node(ResidencySettings(port=0, **sizes))
    await node.start()
    options = {"residency_target": node.target, "residency_working_bytes": "6MiB"}
    engine = await asyncio.to_thread(make_engine, marian, **options)
    other = node.owner("diffusion", sdxl=(8 << 20, Noted()))
    try:
        yield node, engine, other
    finally:
        for client in (engine, other):
            await asyncio.to_thread(client.close)
        await node.stop()


async def test_by_turns_with_others_the_words_stay_the_same(marian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_engine(marian).translate(CORPUS[:2], "ru", "en")
    async with turns(marian) as (node, engine, other):

        async def after_the_other() -> list[str]:
            await asyncio.to_thread(hold, other, "sdxl")
            (model,) = [model for model in (await node.state()).models if model.owner == "translation"]
            assert model.device == ""
            return await asyncio.to_thread(engine.translate, CORPUS[:2], "ru", "en")

        assert await after_the_other() == expected

        def broken(self: object) -> None:
            raise RuntimeError("the copy in host memory is lost")

        monkeypatch.setattr(ctranslate2.Translator, "load_model", broken)
        assert await after_the_other() == expected, "loaded anew from its files"


async def test_who_waits_for_its_turn_hears_that_its_caller_has_gone(marian: Path) -> None:
    async with turns(marian) as (node, engine, other):
        servicer = TranslationServicer(EngineSet([engine]), TranslationSettings(max_workers=1, max_queue=1))
        request = translation_pb2.TranslateRequest(texts=CORPUS[:2], source_language="ru", target_language="en")
        lease = other.lease("sdxl")
        await asyncio.to_thread(lease.__enter__)
        try:
            calling = asyncio.create_task(servicer.Translate(request, None))  # type: ignore[arg-type]
            await node.until(lambda state: bool(state.waiting))
            calling.cancel()
            # Its request is taken back, and the only worker is free for the next.
            await node.until(lambda state: not state.waiting)
        finally:
            await asyncio.to_thread(lease.__exit__, None, None, None)
        answer = await servicer.Translate(request, None)  # type: ignore[arg-type]
        assert len(answer.texts) == 2
