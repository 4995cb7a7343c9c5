"""What locust runs: callers that arrive at random, at a given rate, however slow the answers are (an open model).

Not started by hand: ``python -m tests.load`` hands the rest over in the environment, and reads what is left in
LOAD_SAMPLES, one JSON object a line for every request: kind, arrived_s, seconds, outcome.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Group
from locust import HttpUser, constant, events, task
from locust.env import Environment
from urllib3 import PoolManager

from tests.load.arrivals import arrivals

RATE = float(os.environ["LOAD_RATE"])
ARRIVALS_S = float(os.environ["LOAD_SECONDS"])
PROFILE = os.environ["LOAD_PROFILE"]
SAMPLES = Path(os.environ["LOAD_SAMPLES"])
RECORDING = Path(os.environ["LOAD_RECORDING"]).read_bytes()
SEED = int(os.environ.get("LOAD_SEED", "1"))

samples: list[dict[str, Any]] = []


class Callers(HttpUser):
    """All callers of a run; every request is a greenlet of its own."""

    fixed_count = 1
    wait_time = constant(0)
    pool_manager = PoolManager(num_pools=4, maxsize=1000)

    @task
    def arrive(self) -> None:
        flying = Group()
        started = time.monotonic()
        # By the clock, not by pauses: a caller that is late must not put off those behind.
        for at_s, kind in arrivals(PROFILE, RATE, ARRIVALS_S, SEED):
            gevent.sleep(max(0.0, started + at_s - time.monotonic()))
            flying.add(gevent.spawn(self.call, kind, started + at_s))
        flying.join()
        self.environment.runner.quit()

    def call(self, kind: str, arrived: float) -> None:
        """One request from the moment it was due to its end."""
        outcome = getattr(self, kind)()
        samples.append({"kind": kind, "arrived_s": arrived, "seconds": time.monotonic() - arrived, "outcome": outcome})

    def story(self) -> str:
        """A narrative, followed by its events to the last."""
        accepted: list[str] = []
        refusal = self._post("/v1/narratives", accepted, files={"file": ("talk.flac", RECORDING)})
        if not accepted:
            return refusal
        path = f"/v1/narratives/{accepted[0]}/events"
        started = time.monotonic()
        with self.client.get(path, stream=True, name="follow", timeout=600, catch_response=True) as response:
            kind = ""
            for line in response.iter_lines(decode_unicode=True):
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind == "image" and started:
                    first = {"kind": "first picture", "arrived_s": started, "seconds": time.monotonic() - started}
                    samples.append(first | {"outcome": "ok"})
                    started = 0.0
                elif line.startswith("data: ") and kind == "finished":
                    status = json.loads(line.removeprefix("data: "))["status"]
                    return "ok" if status == "succeeded" else status
            response.failure("the stream ended before the narrative")
        return "lost"

    def transcription(self) -> str:
        return self._post("/v1/audio/transcriptions", [], files={"file": ("talk.flac", RECORDING)})

    def picture(self) -> str:
        body = {
            "prompt": "a small boat on the sea at night",
            "response_format": "url",
            "seed": random.randrange(1 << 31),
        }
        return self._post("/v1/images/generations", [], json=body)

    def _post(self, path: str, ids: list[str], **content: Any) -> str:
        with self.client.post(path, timeout=600, catch_response=True, **content) as response:
            if response.status_code in (200, 202):
                ids += [response.json()["id"]] if response.status_code == 202 else []
                return "ok"
            if response.status_code == 429 and int(response.headers.get("Retry-After", "0")) > 0:
                # What a gateway should say that has enough to do.
                response.success()
                return "refused"
            response.failure(response.text[:200])
            return f"status {response.status_code}"


@events.quitting.add_listener
def keep(environment: Environment, **_: Any) -> None:
    SAMPLES.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    # Refusals and late answers are results here, not reasons to fail.
    environment.process_exit_code = 0
