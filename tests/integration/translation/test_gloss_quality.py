"""How much of a scene survives the gloss: content words of the reference translations that it found, really run."""

import re
from pathlib import Path

import pytest

from services.translation.engine_gloss import GlossEngine

# What a picture does not need, and forms of "to be".
FUNCTION_WORDS = {
    "a",
    "an",
    "the",
    "in",
    "on",
    "of",
    "to",
    "is",
    "are",
    "be",
    "and",
    "or",
    "it",
    "this",
    "that",
    "there",
}
FUNCTION_WORDS |= {"what", "how", "many", "they", "doing", "with", "from", "at", "by", "for", "do"}
# Other words for the same thing, in either direction.
SYNONYMS = {
    "little": {"small"},
    "photograph": {"photo", "picture"},
    "picture": {"photo", "photograph"},
    "high": {"tall"},
    "person": {"man"},
    "visible": {"see", "seen"},
}
HELD_OUT = [
    ("Старый рыбак сидит в лодке и ловит рыбу.", "old fisherman sitting boat catching fish"),
    ("В тёмном лесу под высокой сосной спит бурый медведь.", "dark forest under tall pine brown bear sleeping"),
    ("Белая кошка смотрит из окна на падающий снег.", "white cat looking window falling snow"),
    ("Рыцарь сражается с огромным драконом перед каменным замком.", "knight fighting huge dragon front stone castle"),
    ("Три поросёнка построили дом из кирпича.", "three piglets building house brick"),
    ("Женщина в красном платье держит букет цветов.", "woman red dress holding bouquet flowers"),
    ("Корабль с белыми парусами плывёт по синему морю.", "ship white sails blue sea"),
    ("Осенью с деревьев падают жёлтые листья.", "autumn yellow leaves falling trees"),
    ("Бабушка вяжет шарф, сидя в кресле у камина.", "grandmother knitting scarf sitting armchair fireplace"),
    ("Чёрный ворон сидит на голой ветке старого дуба.", "black raven sitting bare branch old oak"),
]


@pytest.fixture(scope="module")
def engine() -> GlossEngine:
    engine = GlossEngine()
    engine.load()
    return engine


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def recall(gloss: str, reference: str) -> tuple[int, int]:
    """Content words of the reference that the gloss has, or a synonym of, and how many there are."""
    found, wanted = set(words(gloss)), [word for word in words(reference) if word not in FUNCTION_WORDS]
    return sum(bool(({word} | SYNONYMS.get(word, set())) & found) for word in wanted), len(wanted)


def test_recorded_sentences(engine: GlossEngine, speech: Path) -> None:
    russian = (speech / "russian.txt").read_text("utf-8").splitlines()
    references = (speech / "russian.en.txt").read_text("utf-8").splitlines()
    counts = [recall(gloss, ref) for gloss, ref in zip(engine.translate(russian, "ru", "en"), references, strict=True)]
    found, wanted = map(sum, zip(*counts, strict=True))
    assert found / wanted >= 0.9, counts


def test_other_sentences(engine: GlossEngine) -> None:
    glosses = engine.translate([russian for russian, _ in HELD_OUT], "ru", "en")
    counts = [recall(gloss, ref) for gloss, (_, ref) in zip(glosses, HELD_OUT, strict=True)]
    found, wanted = map(sum, zip(*counts, strict=True))
    assert found / wanted >= 0.9, list(zip(glosses, counts, strict=True))


def test_encoder_links_words_that_no_table_has(engine: GlossEngine) -> None:
    expected = {
        ("император", "n"): "emperor",
        ("тоннель", "n"): "tunnel",
        ("африканский", "a"): "African",
        ("треугольный", "a"): "triangular",
        ("измерять", "v"): "measure",
    }
    assert not expected.keys() & engine._lexicon.words.keys()
    assert engine._linker.link([*expected, ("глокий", "a"), ("куздра", "n")]) == expected
    assert engine.translate(["Император в треугольной шляпе."], "ru", "en") == ["An emperor in a triangular hat."]


def test_result_does_not_depend_on_the_company(engine: GlossEngine) -> None:
    texts = [russian for russian, _ in HELD_OUT]
    assert engine.translate(texts, "ru", "en") == [engine.translate([text], "ru", "en")[0] for text in texts]
