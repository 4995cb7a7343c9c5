"""What the LLM is told, in each language: the instructions, examples and word lists under ``templates/``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import yaml
from pydantic import BaseModel, ConfigDict

from narrative.errors import InvalidParameter
from services.prompt.engine import Scene
from services.prompt.llm import Message
from services.prompt.vocabulary import Vocabulary, vocabulary

LANGUAGES = ("en", "ru")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(_Strict):
    scene: str
    style: str
    details: list[str] = []


class _SceneExample(_Strict):
    text: str
    answer: _Answer


class _NormalizeExample(_Strict):
    text: str
    answer: str


class _Examples(_Strict):
    scene: list[_SceneExample]
    normalize: list[_NormalizeExample]
    styles: list[str]
    only_talk: _Answer


@dataclass(frozen=True)
class Templates:
    """The words put to the LLM in one language.

    Attributes:
        styles: manners of drawing to choose from.
        only_talk: the scene of someone who says nothing that could be painted.
    """

    language: str
    vocabulary: Vocabulary
    styles: tuple[str, ...]
    only_talk: Scene
    _scene: tuple[Message, ...]
    _normalize: tuple[Message, ...]
    _retry: jinja2.Template

    def scene_messages(self, text: str) -> list[Message]:
        """Asks for the scene of a text; all but the last message never change, so servers cache them."""
        return [*self._scene, {"role": "user", "content": text}]

    def normalize_messages(self, text: str) -> list[Message]:
        """Asks to mend one line."""
        return [*self._normalize, {"role": "user", "content": text}]

    def retry_messages(self, messages: list[Message], answer: str, fault: str) -> list[Message]:
        """Asks once more, naming what was wrong with the answer."""
        complaint = self._retry.render(fault=fault)
        return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]


@cache
def templates(language: str) -> Templates:
    """The templates of a language.

    Raises:
        InvalidParameter: there are none; says which there are.
    """
    if language not in LANGUAGES:
        raise InvalidParameter(
            f"language {language!r} has no templates; accepted are {', '.join(LANGUAGES)}", field="language"
        )
    folder = files("services.prompt") / "templates" / language
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - plain text for a language model, not HTML
    )
    examples = _Examples.model_validate(yaml.safe_load((folder / "examples.yaml").read_text(encoding="utf-8")))
    words: Mapping[str, str] = yaml.safe_load((folder / "words.yaml").read_text(encoding="utf-8"))

    def told(name: str, *shots: tuple[str, dict[str, Any]]) -> tuple[Message, ...]:
        messages: list[Message] = [{"role": "system", "content": environment.get_template(name).render().strip()}]
        for text, answer in shots:
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)})
        return tuple(messages)

    only_talk = examples.only_talk
    return Templates(
        language,
        vocabulary(**words),
        tuple(examples.styles),
        Scene(only_talk.scene, only_talk.style, tuple(only_talk.details)),
        told("scene.j2", *((shot.text, shot.answer.model_dump()) for shot in examples.scene)),
        told("normalize.j2", *((shot.text, {"text": shot.answer}) for shot in examples.normalize)),
        environment.get_template("retry.j2"),
    )
