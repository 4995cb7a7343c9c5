"""The production and embedded engine: the ScenePipeline over an OpenAI-compatible server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from narrative.errors import QueueFull
from narrative.runtime.metrics import RUNNING
from services.prompt.engine import Line, ModelInfo, Progress, SpeakerScene
from services.prompt.llm import OpenAiLlm
from services.prompt.llm_load import LlmLoad
from services.prompt.pipeline import ScenePipeline
from services.prompt.settings import PromptSettings
from services.prompt.templates import templates


class OpenAiPromptEngine:
    """See ``PromptEngine``."""

    def __init__(self, settings: PromptSettings) -> None:
        self._settings = settings
        self._llm = OpenAiLlm(settings)
        self._server_load = LlmLoad(settings)
        self._running = 0

    def load(self) -> None:
        """Reads the templates, waits for the LLM server and warms it up.

        Raises:
            ServiceUnavailable: the server did not become ready within ``startup_wait_s``.
        """
        beginnings = [templates(language).scene_messages(".") for language in self._settings.languages]
        if self._settings.startup_wait_s:
            asyncio.run(self._llm.warm_up(beginnings))
        self._llm.take_turns()

    def close(self) -> None:
        self._llm.close()

    def models(self) -> Sequence[ModelInfo]:
        self._llm.look()
        settings, languages = self._settings, tuple(self._settings.languages)
        llm = ModelInfo(settings.llm_model, "openai", settings.llm_licence, languages)
        return [llm, *(ModelInfo(adapter, "openai", "", languages) for adapter in self._llm.adapters)]

    async def normalize(self, texts: Sequence[str], language: str, model: str = "") -> list[str]:
        async with self._admitted(model, asks_llm=self._settings.normalize_with_llm) as pipeline:
            return await pipeline.normalize(texts, language)

    async def describe(
        self, speaker: str, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> SpeakerScene:
        async with self._admitted(model) as pipeline:
            return await pipeline.describe(speaker, lines, language, style)

    async def process(
        self, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> AsyncIterator[Progress | SpeakerScene]:
        async with self._admitted(model) as pipeline:
            async for item in pipeline.process(lines, language, style):
                yield item

    @asynccontextmanager
    async def _admitted(self, model: str, *, asks_llm: bool = True) -> AsyncIterator[ScenePipeline]:
        most = self._settings.max_workers + self._settings.max_queue
        if self._running >= most:
            raise QueueFull(
                f"prompt: {most} calls are under way, as many as may be; try again later", retry_after_s=2.0
            )
        self._running += 1
        RUNNING.labels("prompt").set(self._running)
        try:
            if asks_llm:
                await self._server_load.check()
            yield ScenePipeline(await self._llm.named(model), self._settings)
        finally:
            self._running -= 1
            RUNNING.labels("prompt").set(self._running)
