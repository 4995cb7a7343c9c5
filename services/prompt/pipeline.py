"""The ScenePipeline: normalise lines, extract a scene a speaker, build the prompt, over any LLM."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from narrative.errors import InvalidParameter, ModelOutputInvalid
from services.prompt.engine import Line, NormalizedLine, Progress, Scene, SpeakerScene
from services.prompt.llm import Answer, Llm
from services.prompt.normalize import join_lines, keeps_every_word, tidy_line
from services.prompt.phrases import phrases
from services.prompt.scene_contract import (
    BrokenContract,
    chosen_schema,
    free_schema,
    read_scene,
    read_text,
    text_schema,
)
from services.prompt.settings import PromptSettings
from services.prompt.templates import Templates, templates
from services.prompt.visual_prompt import build_prompt, tidy_phrase

MAX_STYLE_CHARS = 200
log = structlog.get_logger()


class ScenePipeline:
    """From what was said to what can be seen; every LLM call goes through ``llm``, which bounds them.

    The stages are public, so that a caller can show them one under the other.
    """

    def __init__(self, llm: Llm, settings: PromptSettings) -> None:
        self._llm = llm
        self._settings = settings

    async def normalize_text(self, text: str, language: str) -> str:
        """Mends one line; nothing is added and nothing lost.

        With ``normalize_with_llm`` the LLM mends typing errors too, and its answer is taken only where every word is
        still there; where it strayed, the rules' answer stands, and a log line says so.
        """
        tidy = tidy_line(text)
        if not tidy or not self._settings.normalize_with_llm:
            return tidy
        messages = templates(language).normalize_messages(tidy)
        answer = await self._llm.ask(messages, text_schema())
        try:
            mended = tidy_line(read_text(answer))
        except BrokenContract as fault:
            log.info("normalised by rule", reason=str(fault))
            return tidy
        if not keeps_every_word(tidy, mended):
            log.info("normalised by rule", reason="the LLM added or lost words")
            return tidy
        return mended

    async def extract_scene(self, lines: Sequence[str], language: str) -> Scene:
        """Writes the scene of one speaker's normalised lines; only what can be seen, only what was said.

        Lines that show nothing are left out. Someone none of whose lines shows anything is seen talking: that is all
        there is to see.

        Raises:
            ModelOutputInvalid: the LLM broke its contract twice.
        """
        words = templates(language)
        shown = self._lines_to_show(lines, words)
        candidates = phrases(shown, words.vocabulary)
        if not candidates:
            log.info("nothing to be seen in the lines of a speaker", lines=len(lines))
            return words.only_talk
        source = "\n".join(shown)
        chosen = chosen_schema(candidates, words.styles, words.vocabulary)
        schema = chosen if self._settings.wording == "chosen" else free_schema()
        messages = words.scene_messages(source)
        answer = await self._llm.ask(messages, schema)
        try:
            return self._read(answer, source, words)
        except BrokenContract as fault:
            log.info("the LLM broke its contract, asking again", fault=str(fault))
            messages = words.retry_messages(messages, answer.text, str(fault))
        # The second time it may only choose among the speaker's own phrases, whatever the setting.
        answer = await self._llm.ask(messages, chosen)
        try:
            return self._read(answer, source, words)
        except BrokenContract as fault:
            raise ModelOutputInvalid(f"the LLM broke its contract twice: {fault}") from fault

    def build_prompt(self, scene: Scene, language: str) -> str:
        """Joins scene, details, style and the quality tail of the language."""
        return build_prompt(scene, language)

    async def describe(self, speaker: str, lines: Sequence[Line], language: str, style: str = "") -> SpeakerScene:
        """Runs the three stages for one speaker; see ``PromptEngine.describe``."""
        self._check(lines, language, style)
        if not speaker:
            raise InvalidParameter("speaker is empty", field="speaker")
        if strangers := sorted({line.speaker for line in lines if line.speaker not in ("", speaker)}):
            raise InvalidParameter(f"lines of {', '.join(strangers)} among those of {speaker}", field="lines")
        return await self._describe(speaker, lines, language, style)

    async def process(
        self, lines: Sequence[Line], language: str, style: str = ""
    ) -> AsyncIterator[Progress | SpeakerScene]:
        """Runs the three stages for all speakers at the same time; see ``PromptEngine.process``."""
        self._check(lines, language, style)
        by_speaker: dict[str, list[Line]] = {}
        for line in lines:
            if not line.speaker:
                raise InvalidParameter(f"line {line.id} has no speaker", field="lines.speaker")
            by_speaker.setdefault(line.speaker, []).append(line)
        yield Progress("prompt", 0.0)
        tasks = [
            asyncio.create_task(self._describe(speaker, own, language, style)) for speaker, own in by_speaker.items()
        ]
        try:
            for done, finished in enumerate(asyncio.as_completed(tasks), 1):
                yield await finished
                yield Progress("prompt", done / len(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def normalize(self, texts: Sequence[str], language: str) -> list[str]:
        """Mends many lines at the same time; see ``PromptEngine.normalize``."""
        templates(language)
        self._check_texts(texts, "texts")
        if self._settings.normalize_with_llm:
            self._check_readable(language)
        return list(await asyncio.gather(*(self.normalize_text(text, language) for text in texts)))

    async def _describe(self, speaker: str, lines: Sequence[Line], language: str, style: str) -> SpeakerScene:
        normalized = await asyncio.gather(*(self.normalize_text(line.text, language) for line in lines))
        scene = await self.extract_scene([text for text in normalized if text], language)
        if wanted := tidy_phrase(style):
            scene = Scene(scene.scene, wanted, scene.details)
        return SpeakerScene(
            speaker,
            tuple(NormalizedLine(line, text) for line, text in zip(lines, normalized, strict=True)),
            join_lines(normalized),
            scene,
            self.build_prompt(scene, language),
        )

    def _read(self, answer: Answer, source: str, words: Templates) -> Scene:
        return read_scene(answer, source, words.vocabulary, self._settings.min_grounded)

    def _lines_to_show(self, lines: Sequence[str], words: Templates) -> list[str]:
        """Lines with something to see, in order; those with most to see first to stay where the text is too long."""
        visible = [len(set(words.vocabulary.content(line))) for line in lines]
        room = self._settings.max_text_chars
        kept: set[int] = set()
        for i in sorted(range(len(lines)), key=lambda i: (-visible[i], i)):
            if visible[i] and (len(lines[i]) <= room or not kept):
                kept.add(i)
                room -= len(lines[i])
        return [lines[i][: self._settings.max_text_chars] for i in sorted(kept)]

    def _check(self, lines: Sequence[Line], language: str, style: str) -> None:
        templates(language)
        self._check_readable(language)
        self._check_texts([line.text for line in lines], "lines")
        if len(style) > MAX_STYLE_CHARS:
            raise InvalidParameter(
                f"style has {len(style)} characters, at most {MAX_STYLE_CHARS} are accepted", field="style"
            )

    def _check_readable(self, language: str) -> None:
        if language not in self._settings.languages:
            raise InvalidParameter(
                f"the LLM {self._settings.llm_model} does not read {language!r}; it reads "
                f"{', '.join(self._settings.languages)}: translate the lines first",
                field="language",
            )

    def _check_texts(self, texts: Sequence[str], field: str) -> None:
        settings = self._settings
        if not texts:
            raise InvalidParameter(f"{field} is empty, at least one is needed", field=field)
        if len(texts) > settings.max_lines:
            raise InvalidParameter(f"{len(texts)} lines, at most {settings.max_lines} are accepted", field=field)
        for position, text in enumerate(texts):
            if len(text) > settings.max_line_chars:
                raise InvalidParameter(
                    f"line {position} has {len(text)} characters, at most {settings.max_line_chars} are accepted",
                    field=field,
                )
