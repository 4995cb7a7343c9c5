"""A gateway killed in the middle of a story goes on where it was."""

import json
import os
import signal
from pathlib import Path

from narrative.cli.client import Client
from tests.e2e.conftest import THREE_VOICES, Ensemble


def test_kill_9_of_the_gateway_loses_and_repeats_nothing(ensemble: Ensemble) -> None:
    state = Path(ensemble.environment["NARRATIVE_DATA_DIR"]) / "ensemble.json"
    with Client(ensemble.url) as client:
        narrative = client.create_narrative(THREE_VOICES, {"num_inference_steps": 8})
        killed_after: bytes | None = None
        pictures: list[int] = []
        for event in client.events(narrative["id"]):
            if event.type == "image":
                pictures.append(event.data["index"])
                if killed_after is None:
                    killed_after = client.request("GET", event.data["url"]).content
                    os.kill(json.loads(state.read_text())["processes"]["gateway"], signal.SIGKILL)
            if event.type == "finished":
                assert event.data["status"] == "succeeded"
        told = client.request("GET", f"/v1/narratives/{narrative['id']}/story.json").json()
        first = client.request("GET", f"/v1/narratives/{narrative['id']}/images/{pictures[0]}").content

    drawn = sorted(image["index"] for speaker in told["speakers"] for image in speaker["images"])
    assert sorted(pictures) == drawn == [0, 1, 2]
    assert first == killed_after
