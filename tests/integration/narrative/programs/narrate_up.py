"""`narrate` over an ensemble of two programs instead of the real one; a story asks one of them again and again."""

import time
from typing import Any
from unittest.mock import patch

from narrative.cli import ensemble, main, story
from narrative.cli.client import Client
from narrative.profiles import ProcessSpec, Profile


def send(client: Client, *_: Any) -> str:
    client.request("POST", "/v1/narratives")
    return "7"


def tell(client: Client, *_: Any) -> None:
    print("telling", flush=True)
    while True:
        client.request("GET", "/")
        time.sleep(0.01)


if __name__ == "__main__":
    processes = {
        "asr": ProcessSpec(module="healthy_program", port="PROGRAM_PORT", health="http", path="/"),
        "gateway": ProcessSpec(module="gateway_program", port="GATEWAY_PORT", health="http", path="/"),
    }
    profile = Profile(name="test", processes=processes, environment={})
    with (
        patch.object(ensemble, "load_profile", lambda _: profile),
        patch.object(ensemble, "pull_all"),
        patch.object(story, "pull_all"),
        patch.object(story, "send", send),
        patch.object(story, "receive", tell),
    ):
        main.main()
