"""Fine-tunes: a real trainer around a program that stands for a training, so that processes come and go as they do."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import GatewaySettings
from narrative.ports import free_port
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from services.trainer.engine_process import ProcessEngine
from services.trainer.servicer import make_service
from services.trainer.settings import TrainerSettings
from tests.integration.gateway.conftest import Api, files_below, serving
from tests.integration.gateway.fakes import Ensemble, png
from tests.integration.gateway.test_crash import environment_of, process

PROGRAM = Path(__file__).parents[2] / "unit" / "trainer_service" / "programs" / "training.py"


class RunningTrainer:
    """A trainer that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    async def start(self) -> None:
        settings = TrainerSettings(common=CommonSettings(data_dir=self.folder), port=self.port, stop_s=10.0)
        engine = ProcessEngine(settings, [sys.executable, str(PROGRAM)])
        self.server = ServiceServer(make_service(settings, engine), settings)
        self.port = await self.server.start()
        await self.server.load()

    async def stop(self) -> None:
        await self.server.stop()


@pytest.fixture
async def trainer(tmp_path: Path) -> AsyncIterator[RunningTrainer]:
    running = RunningTrainer(tmp_path)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def api(fakes: Ensemble, trainer: RunningTrainer, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(fakes, tmp_path, trainer_target=f"127.0.0.1:{trainer.port}", retry_window_s=20.0) as running:
        yield running


async def dataset(api: Api) -> str:
    response = await api.http.post("/v1/datasets", files=[("file", ("1.png", png())), ("file", ("2.png", png()))])
    dataset_id: str = response.json()["id"]
    return dataset_id


def order(dataset_id: str, end: str = "", steps: int = 3, **settings: Any) -> dict[str, Any]:
    values = {"name": "seal", "licence": end, "max_train_steps": steps, **settings}
    return {"recipe": "style", "dataset": dataset_id, "settings": values}


async def start(api: Api, asked: dict[str, Any]) -> str:
    response = await api.http.post("/v1/fine-tunes", json=asked)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


async def events(api: Api, job_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    headers = {"Last-Event-ID": str(after)}
    async with api.http.stream("GET", f"/v1/fine-tunes/{job_id}/events", headers=headers) as response:
        event: dict[str, Any] = {}
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                event[name] = int(value) if name == "id" else json.loads(value) if name == "data" else value
            elif not line and event:
                yield event
                event = {}


async def all_events(api: Api, job_id: str, after: int = 0) -> list[dict[str, Any]]:
    return [event async for event in events(api, job_id, after)]


async def until_step(api: Api, job_id: str, step: int) -> int:
    """Number of the first event of a step that is at least ``step``."""
    async for event in events(api, job_id):
        if event["event"] == "step" and event["data"]["step"] >= step:
            number: int = event["id"]
            return number
    raise AssertionError("the training ended before")


def steps_of(told: list[dict[str, Any]]) -> list[int]:
    return [event["data"]["step"] for event in told if event["event"] == "step"]


async def test_from_pictures_to_an_adapter(api: Api) -> None:
    recipes = (await api.http.get("/v1/recipes")).json()["data"]
    style = next(recipe for recipe in recipes if recipe["name"] == "style")
    assert style["settings"]["properties"]["rank"]["type"] == "integer"
    dataset_id = await dataset(api)
    job_id = await start(api, order(dataset_id))

    told = await all_events(api, job_id)

    kinds = list(dict.fromkeys(event["event"] for event in told))
    assert kinds == ["status", "note", "step", "sample", "epoch", "result", "finished"]
    assert [event["id"] for event in told] == list(range(1, len(told) + 1))
    assert steps_of(told)[-1] == 3
    assert next(e["data"] for e in told if e["event"] == "note")["message"] == "2 files, going on from run/step 0"
    sample = next(event["data"] for event in told if event["event"] == "sample")
    assert (await api.http.get(sample["url"])).content == b"picture"
    shown = (await api.http.get(f"/v1/fine-tunes/{job_id}")).json()
    assert (shown["status"], shown["adapter"]) == ("succeeded", "seal")
    assert shown["measures"] == {"epochsCompleted": 1, "finalLoss": 0.5}
    assert (await api.http.get("/v1/fine-tunes")).json()["data"] == [shown]
    (adapter,) = (await api.http.get("/v1/adapters")).json()["data"]
    assert (adapter["name"], adapter["training"], adapter["size_bytes"]) == ("seal", {"base": "storybook"}, 7)
    assert (await api.http.get("/v1/adapters/seal")).json() == adapter
    assert (await api.http.get(adapter["links"]["peft"])).content == b"weights"

    assert (await api.http.delete("/v1/adapters/seal")).status_code == 204
    assert (await api.http.get("/v1/adapters/seal")).status_code == 404
    assert (await api.http.delete("/v1/adapters/seal")).status_code == 404
    assert (await api.http.delete(f"/v1/fine-tunes/{job_id}")).status_code == 204
    assert (await api.http.get(f"/v1/fine-tunes/{job_id}")).status_code == 404
    assert (await api.http.delete(f"/v1/datasets/{dataset_id}")).status_code == 204
    assert files_below(api) == []


async def test_wrong_requests_are_refused_at_once(api: Api) -> None:
    dataset_id = await dataset(api)
    for asked, status, field in [
        (order(dataset_id, rank=0), 422, "settings.rank"),
        (order(dataset_id, resolutoin=64), 422, "settings.resolutoin"),
        (order(dataset_id, output_dir="/tmp"), 422, "settings.output_dir"),
        (order(dataset_id, dataset_dir="../other"), 422, "settings.dataset_dir"),
        (order(dataset_id) | {"recipe": "imaginary"}, 404, "recipe"),
        (order("0" * 32), 404, "dataset"),
        (order("../x"), 422, "dataset"),
        (order(dataset_id) | {"colour": "red"}, 422, "colour"),
        (order(dataset_id, name="\ud800"), 422, "settings"),
        ({"recipe": "style"}, 422, "dataset"),
    ]:
        headers = {"Content-Type": "application/json"}
        response = await api.http.post("/v1/fine-tunes", content=json.dumps(asked), headers=headers)
        assert (response.status_code, response.json().get("field")) == (status, field), response.text
    assert (await api.http.get("/v1/fine-tunes")).json()["data"] == []


async def test_the_same_key_gives_the_same_fine_tune(api: Api) -> None:
    asked, headers = order(await dataset(api)), {"Idempotency-Key": "one"}
    first, second = [(await api.http.post("/v1/fine-tunes", json=asked, headers=headers)).json() for _ in range(2)]
    assert first["id"] == second["id"]
    other = await api.http.post("/v1/fine-tunes", json=asked | {"settings": {}}, headers=headers)
    assert other.status_code == 409
    await all_events(api, first["id"])


async def test_what_the_recipe_refuses_fails_with_its_own_error(api: Api) -> None:
    job_id = await start(api, order(await dataset(api), "refuse"))
    *_, last = await all_events(api, job_id)
    assert last["data"]["status"] == "failed"
    assert last["data"]["error"]["type"] == "urn:narrative:error:DatasetInvalid"
    assert last["data"]["error"]["detail"] == "a.png: not a readable picture"
    assert last["data"]["error"]["instance"] == f"/v1/fine-tunes/{job_id}"


async def test_of_two_with_one_name_the_second_is_refused(api: Api) -> None:
    dataset_id = await dataset(api)
    first = await start(api, order(dataset_id, "slow", steps=100_000))
    await until_step(api, first, 1)
    refused = await api.http.post("/v1/fine-tunes", json=order(dataset_id))
    assert refused.status_code == 409
    assert f"fine-tune {first} is to become 'seal' too" in refused.json()["detail"]
    other = await start(api, order(dataset_id, name="mist"))
    await api.http.post(f"/v1/fine-tunes/{first}/cancel")
    second = await start(api, order(dataset_id))
    while (taken_up := await api.http.post(f"/v1/fine-tunes/{first}/resume")).status_code == 409:
        assert "is to become" in taken_up.json()["detail"] or "still stopping" in taken_up.json()["detail"]
        if "is to become" in taken_up.json()["detail"]:
            break
        await asyncio.sleep(0.02)
    assert second in taken_up.json()["detail"]
    for job_id in (other, second):
        assert (await all_events(api, job_id))[-1]["data"]["status"] == "succeeded"


@pytest.mark.parametrize(
    ("recipe", "settings", "field"),
    [
        ("whisper_lora", {}, "publish_as"),
        ("pix2pix", {"publishAs": ""}, "publishAs"),
        ("dreambooth", {"dataset_name": "cats"}, "dataset_name"),
    ],
)
async def test_what_makes_no_sense_over_the_network_is_refused(
    api: Api, recipe: str, settings: dict[str, Any], field: str
) -> None:
    asked = {"recipe": recipe, "dataset": await dataset(api), "settings": settings}
    response = await api.http.post("/v1/fine-tunes", json=asked)
    assert (response.status_code, response.json()["field"]) == (422, f"settings.{field}")
    assert response.json()["detail"].startswith(field)


async def test_what_is_not_good_enough_is_not_published(api: Api) -> None:
    job_id = await start(api, order(await dataset(api), "not good enough"))
    *_, result, last = await all_events(api, job_id)
    assert last["data"]["status"] == "succeeded"
    assert result["data"]["adapter"] is None
    assert result["data"]["measures"]["unmetRequirements"] == ["similarity>=1"]
    assert (await api.http.get("/v1/adapters")).json() == {"data": []}


async def test_what_was_cancelled_is_taken_up_where_it_stopped(
    fakes: Ensemble, trainer: RunningTrainer, tmp_path: Path, database_url: str
) -> None:
    target = f"127.0.0.1:{trainer.port}"
    async with serving(fakes, tmp_path, trainer_target=target, database_url=database_url) as api:
        await _cancel_and_resume(api)


async def _cancel_and_resume(api: Api) -> None:
    dataset_id = await dataset(api)
    job_id = await start(api, order(dataset_id, "slow", steps=150))
    await until_step(api, job_id, 10)
    assert (await api.http.delete(f"/v1/datasets/{dataset_id}")).status_code == 409
    assert (await api.http.delete(f"/v1/fine-tunes/{job_id}")).status_code == 409
    assert (await api.http.post(f"/v1/fine-tunes/{job_id}/resume")).status_code == 409

    cancelled = (await api.http.post(f"/v1/fine-tunes/{job_id}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    before = await all_events(api, job_id)
    assert before[-1]["event"] == "finished"
    saved = _saved(api, job_id)
    while not saved.exists():
        await asyncio.sleep(0.02)
    stopped_at = int(saved.read_text())

    assert (await api.http.post(f"/v1/fine-tunes/{job_id}/resume")).json()["status"] in ("queued", "running")
    after = await all_events(api, job_id, before[-1]["id"])

    assert after[-1]["data"]["status"] == "succeeded"
    assert min(steps_of(after)) > stopped_at
    told = await all_events(api, job_id)
    assert [event["event"] for event in told if event["event"] in ("stopped", "finished")] == ["stopped", "finished"]
    assert (await api.http.post(f"/v1/fine-tunes/{job_id}/resume")).status_code == 409


async def test_a_trainer_that_restarts_goes_on(api: Api, trainer: RunningTrainer) -> None:
    job_id = await start(api, order(await dataset(api), "slow", steps=150))
    seen = await until_step(api, job_id, 10)
    await trainer.stop()
    stopped_at = int(_saved(api, job_id).read_text())
    await trainer.start()
    rest = await all_events(api, job_id, seen)
    assert rest[-1]["data"]["status"] == "succeeded"
    assert f"2 files, going on from run/step {stopped_at}" in [
        event["data"]["message"] for event in rest if event["event"] == "note"
    ]


async def test_kill_9_of_the_gateway_goes_on_with_the_same_training(
    fakes: Ensemble, trainer: RunningTrainer, tmp_path: Path, database_url: str
) -> None:
    port = free_port()
    environment = environment_of(fakes, tmp_path, database_url)
    environment["NARRATIVE_GATEWAY__TRAINER_TARGET"] = f"127.0.0.1:{trainer.port}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        api = Api(http, GatewaySettings(common=CommonSettings(data_dir=tmp_path)), fakes)
        async with process(environment, port) as first:
            job_id = await start(api, order(await dataset(api), "slow", steps=150))
            seen = await until_step(api, job_id, 10)
            first.kill()
            await first.wait()
        async with process(environment, port):
            rest = await all_events(api, job_id, seen)
            assert rest[-1]["data"] == {"status": "succeeded", "error": None}
            assert [event["id"] for event in rest] == list(range(seen + 1, seen + 1 + len(rest)))
            notes = [event["data"]["message"] for event in rest if event["event"] == "note"]
            assert notes
            assert not notes[-1].endswith("step 0")


async def test_without_a_trainer_narratives_go_on(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path) as api:
        assert (await api.http.get("/readyz")).json() == {"status": "ready"}
        response = await api.http.get("/v1/recipes")
        assert response.status_code == 503
        assert "NARRATIVE_GATEWAY__TRAINER_TARGET" in response.json()["detail"]
        assert (await api.http.get("/v1/adapters")).json() == {"data": []}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # Connections are made, and nobody answers.
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        async with serving(fakes, tmp_path, trainer_target=target, list_deadline_s=0.2) as api:
            response = await api.http.get("/v1/recipes")
            assert (response.status_code, response.json()["detail"]) == (503, "trainer does not answer")
    async with serving(fakes, tmp_path, trainer_target=f"127.0.0.1:{free_port()}") as api:
        ready = await api.http.get("/readyz")
        assert ready.status_code == 200
        assert "trainer" in ready.json()["optional"]["trainer"]
        await api.finished(await api.create())


def _saved(api: Api, job_id: str) -> Path:
    """Where the program keeps its last step."""
    return Path(api.settings.common.data_dir) / "trainings" / job_id / "run" / "step"
