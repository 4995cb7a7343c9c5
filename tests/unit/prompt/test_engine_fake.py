import pytest

from narrative.errors import ModelNotFound
from services.prompt.engine_fake import FakePromptEngine
from services.prompt.settings import PromptSettings


async def test_a_model_that_it_does_not_list_is_refused_as_by_the_real_engine() -> None:
    engine = FakePromptEngine(PromptSettings(fake_service_time_s=0))

    assert (await engine.describe("SPEAKER_00", [], "en", model=engine.models()[0].id)).speaker == "SPEAKER_00"
    with pytest.raises(ModelNotFound, match="no model 'storyteller'; there is fake"):
        await engine.describe("SPEAKER_00", [], "en", model="storyteller")
    with pytest.raises(ModelNotFound):
        await engine.normalize(["a cat"], "en", "storyteller")
    with pytest.raises(ModelNotFound):
        await anext(aiter(engine.process([], "en", model="storyteller")))
