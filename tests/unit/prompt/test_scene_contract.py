import json
from typing import Any

import pytest

from services.prompt.engine import Scene
from services.prompt.llm import Answer
from services.prompt.scene_contract import BrokenContract, chosen_schema, read_scene
from services.prompt.templates import templates

ENGLISH = templates("en").vocabulary
SOURCE = "A girl is sitting on the green grass. A big dog sleeps near the old tree."
GOOD: dict[str, Any] = {"scene": "a girl sitting on green grass", "style": "watercolor", "details": ["big dog"]}


def read(text: str, complete: bool = True, min_grounded: float = 0.6) -> Scene:
    return read_scene(Answer(text, complete), SOURCE, ENGLISH, min_grounded)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        "```json\n" + json.dumps(GOOD) + "\n```",
        "Here you are: " + json.dumps(GOOD) + " I hope it helps.",
        json.dumps(GOOD).replace('["big dog"]', '["big dog",],').replace(",}", "}"),
        json.dumps({**GOOD, "details": "big dog"}),
        json.dumps({**GOOD, "scene": " a girl\n sitting on green grass. "}),
        json.dumps({**GOOD, "details": ["big dog", 7, "purple elephant", "green grass"]}),
    ],
)
def test_what_can_be_repaired_is(text: str) -> None:
    assert read(text) == Scene("a girl sitting on green grass", "watercolor", ("big dog",))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no JSON"),
        ("no idea", "no JSON"),
        ('{"scene": "a girl', "malformed"),
        (json.dumps({"style": "x", "details": []}), "scene is missing"),
        (json.dumps({**GOOD, "scene": 3}), "scene is missing or not a text"),
        (json.dumps({**GOOD, "scene": "..."}), "scene is empty"),
        (json.dumps({**GOOD, "details": 3}), "details is not a list"),
        (json.dumps({**GOOD, "scene": "an old fisherman mending a net"}), "does not mention fisherman"),
    ],
)
def test_what_cannot_be_repaired_is_named(text: str, fault: str) -> None:
    with pytest.raises(BrokenContract, match=fault):
        read(text)


def test_an_answer_cut_off_is_refused() -> None:
    with pytest.raises(BrokenContract, match="too long"):
        read(json.dumps(GOOD), complete=False)


def test_grounding_follows_the_setting() -> None:
    mixed = json.dumps({**GOOD, "scene": "a girl and a unicorn"})
    assert read(mixed, min_grounded=0.5).scene == "a girl and a unicorn"
    with pytest.raises(BrokenContract, match="unicorn"):
        read(mixed, min_grounded=0.6)


def test_chosen_schema_admits_nothing_but_phrases_of_the_text() -> None:
    one = chosen_schema(["a girl on the grass"], ["watercolor"], ENGLISH)
    assert one["properties"]["scene"] == {"const": "a girl on the grass"}
    assert one["properties"]["details"]["maxItems"] == 0
    several = chosen_schema(["a girl on the grass", "a big dog"], ["watercolor"], ENGLISH)["anyOf"]
    assert [option["properties"]["scene"]["const"] for option in several] == [
        "a girl on the grass, a big dog",
        "a girl on the grass",
        "a big dog",
    ]
    assert several[1]["properties"]["details"]["items"] == {"enum": ["big dog"]}
