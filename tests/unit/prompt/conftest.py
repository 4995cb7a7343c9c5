"""An LLM that answers from a list, so that the ring around it can be tested without one."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from services.prompt.llm import Answer
from services.prompt.pipeline import ScenePipeline
from services.prompt.settings import PromptSettings

Reply = str | Mapping[str, Any] | Exception


class FakeLlm:
    """Gives the replies in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self, *replies: Reply, complete: bool = True) -> None:
        self.replies = list(replies)
        self.complete = complete
        self.asked: list[tuple[list[Mapping[str, str]], Mapping[str, Any]]] = []
        self.running = self.most_running = 0

    async def ask(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> Answer:
        self.asked.append((list(messages), schema))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(0)
        self.running -= 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return Answer(reply if isinstance(reply, str) else json.dumps(reply), self.complete)


MakePipeline = Callable[..., ScenePipeline]


@pytest.fixture
def fake_llm() -> type[FakeLlm]:
    return FakeLlm


@pytest.fixture
def make_pipeline() -> MakePipeline:
    def make(llm: FakeLlm, **settings: Any) -> ScenePipeline:
        return ScenePipeline(llm, PromptSettings(**settings))

    return make
