"""The contract of a scene: the schema the LLM is held to, and the reading of what it answers."""

import json
import re
from collections.abc import Sequence
from typing import Any

from services.prompt.engine import Scene
from services.prompt.llm import Answer, Schema
from services.prompt.phrases import details, scenes
from services.prompt.visual_prompt import MAX_DETAILS, clean_details, tidy_phrase
from services.prompt.vocabulary import Vocabulary

MAX_SCENE_CHARS = 300
MAX_STYLE_CHARS = 80


class BrokenContract(Exception):
    """What was wrong with an answer, in words for the LLM and the log."""


def free_schema() -> Schema:
    """The LLM writes scene, style and details itself.

    Lengths are left to the token limit and to ``read_scene``: a "maxLength" costs vLLM's grammar compiler seconds.
    """
    text = {"type": "string"}
    return _object(text, text, {"type": "array", "items": text, "maxItems": MAX_DETAILS})


def chosen_schema(candidates: Sequence[str], styles: Sequence[str], vocabulary: Vocabulary) -> Schema:
    """The LLM chooses the scene among phrases of the text, and details among the other phrases."""
    style = {"enum": list(styles)}
    options = []
    for scene, rest in scenes(candidates):
        choices = [detail for detail in details(rest, vocabulary) if clean_details([detail], scene, vocabulary)]
        detail_schema: dict[str, Any] = {"type": "array", "maxItems": MAX_DETAILS, "items": {"enum": choices}}
        if not choices:
            detail_schema = {"type": "array", "maxItems": 0, "items": {"type": "string"}}
        options.append(_object({"const": scene}, style, detail_schema))
    return options[0] if len(options) == 1 else {"anyOf": options}


def read_scene(answer: Answer, source: str, vocabulary: Vocabulary, min_grounded: float) -> Scene:
    """Reads an answer, repairing what can be repaired without guessing.

    Text around the JSON, code fences and trailing commas are ignored; spaces and punctuation at the ends are cleaned;
    details that are too many, repeated, or not borne out by ``source`` are left out.

    Raises:
        BrokenContract: no JSON object, a field missing or of another kind, or a scene that ``source`` does not bear
            out.
    """
    if not answer.complete:
        raise BrokenContract("the answer is too long")
    fields = _json_object(answer.text)
    scene = tidy_phrase(_text(fields, "scene"))[:MAX_SCENE_CHARS]
    style = tidy_phrase(_text(fields, "style"))[:MAX_STYLE_CHARS]
    offered = fields.get("details", [])
    if isinstance(offered, str):
        offered = offered.split(",")
    if not isinstance(offered, list):
        raise BrokenContract("details is not a list")
    if not scene:
        raise BrokenContract("scene is empty")
    if vocabulary.grounded_share(scene, source) < min_grounded:
        strange = [word for word in vocabulary.content(scene) if vocabulary.grounded_share(word, source) == 0]
        raise BrokenContract(f"the text does not mention {', '.join(strange)}")
    borne_out = [
        detail
        for detail in offered
        if isinstance(detail, str) and vocabulary.grounded_share(detail, source) >= min_grounded
    ]
    return Scene(scene, style, clean_details(borne_out, scene, vocabulary))


def read_text(answer: Answer) -> str:
    """Reads the answer to a line to be mended.

    Raises:
        BrokenContract: no JSON object with a text.
    """
    if not answer.complete:
        raise BrokenContract("the answer is too long")
    return _text(_json_object(answer.text), "text")


def text_schema() -> Schema:
    """One field, the mended line."""
    return {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }


def _object(scene: Schema, style: Schema, detail_list: Schema) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"scene": scene, "style": style, "details": detail_list},
        "required": ["scene", "style", "details"],
        "additionalProperties": False,
    }


def _json_object(text: str) -> dict[str, Any]:
    """The first JSON object in a text, trailing commas allowed."""
    start = text.find("{")
    if start < 0:
        raise BrokenContract("there is no JSON object")
    for candidate in (text[start:], re.sub(r",\s*([}\]])", r"\1", text[start:])):
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise BrokenContract("the JSON is malformed")


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BrokenContract(f"{name} is missing or not a text")
    return value
