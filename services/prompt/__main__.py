"""Runs the prompt service: ``python -m services.prompt``."""

from narrative.runtime.server import serve
from narrative.settings import read_settings
from services.prompt.engine import PromptEngine
from services.prompt.engine_fake import FakePromptEngine
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.servicer import service
from services.prompt.settings import PromptSettings


def make_engine(settings: PromptSettings) -> PromptEngine:
    return FakePromptEngine(settings) if settings.engine == "fake" else OpenAiPromptEngine(settings)


if __name__ == "__main__":
    settings = read_settings(PromptSettings)
    serve(service(make_engine(settings)), settings)
