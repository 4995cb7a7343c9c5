"""The ensemble with its models taking turns on a declared device tells the same story as with all of them in memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import THREE_VOICES, Ensemble


@pytest.fixture
def by_turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    data_dir = tmp_path_factory.mktemp("turns")
    environment = os.environ | {"NARRATIVE_DATA_DIR": str(data_dir), "COLUMNS": "200", "TERM": "dumb"}
    starting = Ensemble("", environment)
    url = starting.narrate("up", "--detach", "--port", "0", "--profile", "embedded-turns").stdout.strip()
    yield Ensemble(url, environment)
    starting.narrate("down")


def test_taking_turns_changes_no_picture(ensemble: Ensemble, by_turns: Ensemble, tmp_path: Path) -> None:
    stories = []
    for running, folder in ((ensemble, tmp_path / "resident"), (by_turns, tmp_path / "turns")):
        running.narrate("story", str(THREE_VOICES), "--output", str(folder), "--seed", "7", "--steps", "6")
        told = json.loads((folder / "story.json").read_text(encoding="utf-8"))
        pictures = [(folder / image["file"]).read_bytes() for one in told["speakers"] for image in one["images"]]
        stories.append(([segment["text"] for segment in told["segments"]], pictures))
    assert stories[0] == stories[1]
    assert len(stories[0][1]) == 3

    state = httpx.get(f"{by_turns.url}/v1/gpus").json()
    (device,) = state["devices"]
    assert device["booked_bytes"] <= device["budget_bytes"]
    everything = [*device["models"], *state["away"]]
    assert {model["model"] for model in everything} == {"whisper-base", "storybook"}
    assert sum(model["num_bytes"] for model in everything) > device["budget_bytes"], "nobody had to leave"
    shown = by_turns.narrate("gpus").stdout
    assert "host:0" in shown
    assert "storybook" in shown


def test_without_residency_there_are_no_gpus_to_show(ensemble: Ensemble) -> None:
    assert httpx.get(f"{ensemble.url}/v1/gpus").status_code == 404
    refused = ensemble.narrate("gpus", check=False)
    assert refused.returncode == 1
    assert "NARRATIVE_GATEWAY__RESIDENCY_TARGET" in refused.stderr
