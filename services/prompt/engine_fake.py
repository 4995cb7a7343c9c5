"""A named fake for tests of the ring around it: a fixed service time, and the speaker's first words as the scene."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from narrative.errors import ModelNotFound
from services.prompt.engine import Line, ModelInfo, NormalizedLine, Progress, Scene, SpeakerScene
from services.prompt.normalize import join_lines, tidy_line
from services.prompt.settings import PromptSettings
from services.prompt.visual_prompt import build_prompt
from services.prompt.vocabulary import words_of

NAME = "fake"
SCENE_WORDS = 12


class FakePromptEngine:
    """Chosen by ``engine="fake"`` only; it reads every language and needs no LLM."""

    def __init__(self, settings: PromptSettings) -> None:
        self._service_time_s = settings.fake_service_time_s

    def load(self) -> None: ...

    def close(self) -> None: ...

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(NAME, NAME, "", ("en", "ru"))]

    async def normalize(self, texts: Sequence[str], language: str, model: str = "") -> list[str]:
        _check(model)
        return [tidy_line(text) for text in texts]

    async def describe(
        self, speaker: str, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> SpeakerScene:
        _check(model)
        await asyncio.sleep(self._service_time_s)
        normalized = tuple(NormalizedLine(line, tidy_line(line.text)) for line in lines)
        text = join_lines([line.normalized_text for line in normalized])
        scene = Scene(" ".join(words_of(text)[:SCENE_WORDS]), style or "plain")
        return SpeakerScene(
            speaker, normalized, text, scene, build_prompt(scene, language if language == "ru" else "en")
        )

    async def process(
        self, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> AsyncIterator[Progress | SpeakerScene]:
        _check(model)
        by_speaker: dict[str, list[Line]] = {}
        for line in lines:
            by_speaker.setdefault(line.speaker, []).append(line)
        scenes = [self.describe(speaker, own, language, style) for speaker, own in by_speaker.items()]
        for scene in await asyncio.gather(*scenes):
            yield scene
        yield Progress("prompt", 1.0)


def _check(model: str) -> None:
    if model not in ("", NAME):
        raise ModelNotFound(f"no model {model[:80]!r}; there is {NAME}", field="model")
