"""What the services say that they read decides which languages a narrative may be told to be in."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from narrative.v1 import common_pb2, prompt_pb2
from tests.integration.gateway import fakes
from tests.integration.gateway.conftest import Api, serving, wav
from tests.integration.gateway.fakes import Script, ensemble

pytestmark = pytest.mark.asyncio(loop_scope="module")
# LoRA adapters of the writer, as its service lists them.
ADAPTERS = ["storyteller"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A gateway whose speech model knows German, whose writer reads English and whose engine reads Russian."""
    listed = fakes._models

    def models(service: str, script: Script) -> list[common_pb2.Model]:
        found = listed(service, script)
        if service == "prompt":
            found += [common_pb2.Model(id=name, task="TASK_SCENE_WRITING", languages=["en"]) for name in ADAPTERS]
        found[0].languages[:] = {"asr": ["de", "en", "ru"], "translation": ["ru"]}.get(service, found[0].languages)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "_models", models)
        async with ensemble() as running, serving(running, tmp_path_factory.mktemp("gateway")) as api:
            await api.http.get("/v1/models")
            yield api


@pytest.mark.parametrize("engine", ["", "gloss"])
async def test_a_language_that_nobody_would_understand_is_refused_at_once(api: Api, engine: str) -> None:
    refused = await api.post({"language": "de", "translation_engine": engine})
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert problem["field"] == "language"
    assert "reads en" in problem["detail"]
    assert "'gloss' ru" in problem["detail"]
    assert 'translation_engine "whisper"' in problem["detail"]


@pytest.mark.parametrize(
    "options", [{"language": "de", "translation_engine": "whisper"}, {"language": "ru"}, {"language": "en"}, {}]
)
async def test_a_language_that_somebody_reads_is_told(api: Api, options: dict[str, Any]) -> None:
    assert (await api.finished(await api.create(options)))["status"] == "succeeded"


async def test_a_speaker_who_was_only_misheard_does_not_end_the_story(api: Api) -> None:
    api.ensemble.script.reset()
    api.ensemble.script.lines = [("SPEAKER_00", "дом", "ru"), ("SPEAKER_01", "Да", "bg")]
    narrative_id = await api.create()
    finished = await api.finished(narrative_id)
    assert finished["status"] == "succeeded", finished
    told = (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).json()
    assert [speaker["left_out_languages"] for speaker in told["speakers"]] == [[], ["bg"]]


async def test_a_story_in_a_language_that_nobody_reads_names_the_way_out(api: Api) -> None:
    api.ensemble.script.reset()
    api.ensemble.script.lines = [("SPEAKER_00", "Haus", "de"), ("SPEAKER_01", "Ja", "de")]
    finished = await api.finished(await api.create())
    assert finished["status"] == "failed"
    assert 'translation_engine "whisper"' in finished["error"]["detail"]


@pytest.mark.parametrize(("language", "status"), [("de", 200), ("fr", 422)])
async def test_a_transcription_needs_nobody_who_reads_its_language(api: Api, language: str, status: int) -> None:
    """What the speech model knows is enough: it is written down, and neither described nor drawn."""
    api.ensemble.script.reset()
    files = {"file": ("talk.wav", wav())}
    response = await api.http.post("/v1/audio/transcriptions", files=files, data={"language": language})
    assert response.status_code == status, response.text
    if status == 422:
        assert response.json()["detail"] == "language: 'fr' is not known; there are de, en, ru"


async def test_scenes_are_written_by_the_model_that_was_asked_for(api: Api) -> None:
    api.ensemble.script.reset()
    refused = await api.post({"scene_model": "imaginary"})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "scene_model: 'imaginary' is not known; there are fake-llm, storyteller"

    assert (await api.finished(await api.create({"scene_model": "storyteller"})))["status"] == "succeeded"
    described = [one for one in api.ensemble.script.requests if isinstance(one, prompt_pb2.DescribeSpeakerRequest)]
    assert [one.model for one in described] == ["storyteller", "storyteller"]


async def test_a_writer_that_was_added_a_moment_ago_can_be_asked_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.ensemble.script.reset()
    await api.http.get("/v1/models")
    monkeypatch.setitem(globals(), "ADAPTERS", ["storyteller", "poet"])
    assert (await api.finished(await api.create({"scene_model": "poet"})))["status"] == "succeeded"
