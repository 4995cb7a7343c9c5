"""How many replicas do so many stories an hour need?  python -m benchmarks.capacity --stories-per-hour 600

A simulation of the queues of docs/capacity.md: stories arrive at random and go through asr, then every speaker on their
own through prompt and diffusion. Calls go to the replicas of a stage in turn, and each replica works them off one by
one, or as many at a time as it has slots. ``--check`` runs it on the arrivals of a load test (``python -m tests.load``)
to see how far from the truth it is.
"""

import argparse
import heapq
import itertools
import math
import statistics
from dataclasses import dataclass, replace

from tests.load.arrivals import PROFILES, arrivals
from tests.load.ensembles import FAKE_S

# Of a stage's capacity that is planned for; at random arrivals the queue grows steeply beyond.
PLANNED_UTILISATION = 0.7


@dataclass(frozen=True)
class Stage:
    """A service: seconds of one call, calls it works on at the same time in a replica, replicas."""

    call_s: float
    slots: int = 1
    replicas: int = 1


@dataclass(frozen=True)
class Ensemble:
    """What a story needs: one call of asr, and for each speaker one of prompt and one of diffusion (one picture).

    Attributes:
        narratives: stories worked on at the same time, over all gateways.
        ring_s: what everything around the engines adds to a story.
    """

    asr: Stage
    prompt: Stage
    diffusion: Stage
    speakers: int = 3
    narratives: int = 8
    ring_s: float = 0.05

    def utilisation(self, stories_per_s: float) -> dict[str, float]:
        """Share of every stage's capacity that is used."""
        calls = {"asr": 1, "prompt": self.speakers, "diffusion": self.speakers}
        return {
            name: stories_per_s * count * stage.call_s / (stage.slots * stage.replicas)
            for name, count in calls.items()
            for stage in (getattr(self, name),)
        }

    def planned(self, stories_per_s: float) -> "Ensemble":
        """With as many replicas as keep every stage below the planned utilisation."""
        sized = self
        for name, used in self.utilisation(stories_per_s).items():
            stage: Stage = getattr(self, name)
            count = max(1, math.ceil(used * stage.replicas / PLANNED_UTILISATION))
            sized = replace(sized, **{name: replace(stage, replicas=count)})
        in_flight = stories_per_s * 2 * (self.ring_s + self.asr.call_s + self.prompt.call_s + self.diffusion.call_s)
        return replace(sized, narratives=max(self.narratives, math.ceil(in_flight)))


class _Queue:
    """A stage at work: knows when each slot of each replica is free."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._free = [[0.0] * stage.slots for _ in range(stage.replicas)]
        self._turn = itertools.cycle(range(stage.replicas))

    def ends(self, arrives_s: float) -> float:
        """When a call ends that arrives now; calls must come in the order of their arrival."""
        slots = self._free[next(self._turn)]
        end_s = max(arrives_s, heapq.heappop(slots)) + self._stage.call_s
        heapq.heappush(slots, end_s)
        return end_s


def simulate(ensemble: Ensemble, asked: list[tuple[float, str]]) -> list[float]:
    """Seconds from arrival to answer, for every request (seconds, kind) in the order of arrival.

    A "transcription" is one call of asr alone, a "picture" one of diffusion; nothing but a "story" waits for a gateway.
    """
    asr, prompt, diffusion = _Queue(ensemble.asr), _Queue(ensemble.prompt), _Queue(ensemble.diffusion)
    order = itertools.count()
    # (time, tie-break, what happens, request): a heap of what comes next.
    events = [(at, next(order), kind, request) for request, (at, kind) in enumerate(asked)]
    heapq.heapify(events)
    free, waiting = ensemble.narratives, []
    pictures = [ensemble.speakers] * len(asked)
    ended = [0.0] * len(asked)

    def then(at: float, what: str, request: int) -> None:
        heapq.heappush(events, (at, next(order), what, request))

    while events:
        now, _, what, story = heapq.heappop(events)
        if what == "story":
            waiting.append(story)
        elif what == "transcription":
            ended[story] = asr.ends(now)
        elif what == "picture":
            ended[story] = diffusion.ends(now)
        elif what == "heard":
            for _ in range(ensemble.speakers):
                then(prompt.ends(now), "described", story)
        elif what == "described":
            then(diffusion.ends(now), "drawn", story)
        elif what == "drawn":
            pictures[story] -= 1
            if not pictures[story]:
                ended[story] = now + ensemble.ring_s
                free += 1
        while free and waiting:
            free -= 1
            then(asr.ends(now), "heard", waiting.pop(0))
    return [end - start for (start, _), end in zip(asked, ended, strict=True)]


def summary(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, p99 {cuts[98]:.2f} s"


def check(profile: str, rates: list[float], seconds: float) -> None:
    ensemble = Ensemble(Stage(FAKE_S["asr"]), Stage(FAKE_S["prompt"], slots=16), Stage(FAKE_S["diffusion"]))
    for rate in rates:
        asked = list(arrivals(profile, rate, seconds))
        took = simulate(ensemble, asked)
        for kind in sorted(PROFILES[profile]):
            own = [one for one, (_, of) in zip(took, asked, strict=True) if of == kind]
            print(f"{rate:g}/s, {len(own)} of {kind}: {summary(own)}")


def plan(ensemble: Ensemble, stories_per_hour: float) -> None:
    rate = stories_per_hour / 3600
    planned = ensemble.planned(rate)
    for name, used in planned.utilisation(rate).items():
        stage: Stage = getattr(planned, name)
        print(f"{name:<10} {stage.replicas:>3} replicas, {used:.0%} used")
    print(f"narratives at the same time, all gateways: {planned.narratives}")
    print(summary(simulate(planned, list(arrivals("stories", rate, 24 * 3600.0)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories-per-hour", type=float, default=600.0)
    parser.add_argument("--speakers", type=int, default=3, help="speakers of a story, a picture each")
    parser.add_argument("--asr-s", type=float, default=3.4, help="seconds to transcribe a recording")
    parser.add_argument("--prompt-s", type=float, default=1.1, help="seconds to describe a speaker")
    parser.add_argument("--prompt-slots", type=int, default=2, help="speakers described at the same time in a replica")
    parser.add_argument("--picture-s", type=float, default=1.4, help="seconds to draw a picture")
    parser.add_argument("--profile", choices=PROFILES, default="stories", help="with --check: of the load test")
    parser.add_argument("--check", type=lambda text: [float(one) for one in text.split(",")], help="rates, per second")
    parser.add_argument("--seconds", type=float, default=40.0, help="with --check: seconds of arrivals")
    chosen = parser.parse_args()
    if chosen.check:
        check(chosen.profile, chosen.check, chosen.seconds)
        return
    prompt = Stage(chosen.prompt_s, chosen.prompt_slots)
    plan(Ensemble(Stage(chosen.asr_s), prompt, Stage(chosen.picture_s), chosen.speakers), chosen.stories_per_hour)


if __name__ == "__main__":
    main()
