"""What a load test found, as Markdown with a plot."""

import math
from dataclasses import dataclass, field
from typing import Any

# Of the time for which requests arrive: if what is left at its end takes longer, requests have piled up.
LEFT_OVER = 0.25
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c")


@dataclass
class Run:
    """One arrival rate.

    Attributes:
        rate: requests offered a second.
        arrivals_s: seconds for which requests arrived; all were then waited for.
        samples: what `tests/load/callers.py` kept.
        before, after: counters of the processes at the start and the end.
        peaks: greatest number of waiting calls by process.
    """

    rate: float
    arrivals_s: float
    samples: list[dict[str, Any]]
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def seconds(self, kind: str) -> list[float]:
        return sorted(one["seconds"] for one in self.samples if one["kind"] == kind and one["outcome"] == "ok")

    def kinds(self) -> list[str]:
        return sorted({one["kind"] for one in self.samples} - {"first picture"})

    def count(self, *outcomes: str) -> int:
        return sum(one["kind"] in self.kinds() and one["outcome"] in outcomes for one in self.samples)

    @property
    def offered(self) -> int:
        return sum(one["kind"] in self.kinds() for one in self.samples)

    @property
    def failed(self) -> int:
        return self.offered - self.count("ok", "refused")

    def throughput(self, *kinds: str) -> float:
        """Requests that ended well (all, or of some kinds) a second, from the first arrival to the last end."""
        ended = [_end_s(one) for one in self.samples if one["outcome"] == "ok"]
        if not ended:
            return 0.0
        well = sum(len(self.seconds(kind)) for kind in kinds or self.kinds())
        return well / (max(ended) - min(one["arrived_s"] for one in self.samples))

    @property
    def keeps_up(self) -> bool:
        first = min(one["arrived_s"] for one in self.samples)
        left_s = max(map(_end_s, self.samples)) - first - self.arrivals_s
        return self.count("ok") == self.offered and left_s <= LEFT_OVER * self.arrivals_s

    def stages(self) -> dict[str, tuple[int, float, float]]:
        """For every method: calls, mean seconds of one, most that waited at once."""
        found = {}
        name = "narrative_request_duration_seconds"
        for key in self.after:
            process, _, rest = key.partition(" ")
            metric, _, method = rest.partition(" ")
            if metric != f"{name}_count" or process == "gateway" or method in ("Check", "ListModels", "CheckImages"):
                continue
            calls = self.after[key] - self.before.get(key, 0.0)
            total = f"{process} {name}_sum {method}"
            if calls:
                mean_s = (self.after[total] - self.before.get(total, 0.0)) / calls
                found[f"{process} {method}"] = (int(calls), mean_s, self.peaks.get(process, 0.0))
        return found


def _end_s(sample: dict[str, Any]) -> float:
    return float(sample["arrived_s"] + sample["seconds"])


def percentile(ordered: list[float], percent: float) -> float:
    """Nearest rank of sorted values."""
    return ordered[max(1, math.ceil(percent * len(ordered) / 100)) - 1]


def markdown(title: str, runs: list[Run], plot: str) -> str:
    """The whole report."""
    lines = [f"# {title}", ""]
    lines += [saturation(runs), "", f"![seconds over rate]({plot})", ""]
    lines += ["| offered/s | kind | ended well | refused (429) | failed | well/s | p50 s | p95 s | p99 s |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for run in runs:
        for kind in [*run.kinds(), *(["first picture"] if run.seconds("first picture") else [])]:
            seconds = run.seconds(kind)
            own = [one for one in run.samples if one["kind"] == kind]
            refused = sum(one["outcome"] == "refused" for one in own)
            times = [f"{percentile(seconds, at):.2f}" for at in (50, 95, 99)] if seconds else ["-"] * 3
            row = [f"{run.rate:g}", kind, str(len(seconds)), str(refused), str(len(own) - len(seconds) - refused)]
            lines += [f"| {' | '.join([*row, f'{run.throughput(kind):.2f}', *times])} |"]
    stages = [(run, name, *values) for run in runs for name, values in sorted(run.stages().items())]
    if stages:
        lines += ["", "Where the time goes: a call's mean seconds in its service, waiting included.", ""]
        lines += ["| offered/s | call | calls | mean s | most waiting at once |", "|---|---|---|---|---|"]
        lines += [
            f"| {run.rate:g} | {name} | {calls} | {mean:.3f} | {peak:.0f} |" for run, name, calls, mean, peak in stages
        ]
    return "\n".join(lines) + "\n"


def saturation(runs: list[Run]) -> str:
    """The highest rate that was kept up with, and what happened beyond it."""
    kept = [run for run in runs if run.keeps_up]
    beyond = [run for run in runs if not run.keeps_up]
    text = f"Kept up with {max(run.rate for run in kept):g}/s" if kept else "Kept up with none of the rates"
    if beyond:
        most = max(run.throughput() for run in runs)
        refused, failed = sum(run.count("refused") for run in beyond), sum(run.failed for run in beyond)
        text += (
            f"; most that ended well was {most:.2f}/s. Beyond, {refused} requests were told to come back later (429 "
            f"with Retry-After), {sum(run.count('ok') for run in beyond)} ended well, and {failed} failed"
        )
    return text + "."


def svg(runs: list[Run]) -> str:
    """Median and 95th percentile over the offered rate, in a colour for each kind of request."""
    kinds = sorted({kind for run in runs for kind in run.kinds() if run.seconds(kind)})
    times = {kind: [(run.rate, run.seconds(kind)) for run in runs if run.seconds(kind)] for kind in kinds}
    width, height, left, top = 640, 360, 60, 20
    most_x = max(run.rate for run in runs) * 1.05
    most_y = max(percentile(seconds, 95) for points in times.values() for _, seconds in points) * 1.1

    def at(rate: float, seconds: float) -> tuple[float, float]:
        x = left + rate / most_x * (width - left - 20)
        y = height - 40 - seconds / most_y * (height - 40 - top)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left},{top} V{height - 40} H{width - 20}" fill="none" stroke="#444"/>',
        f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">requests offered a second</text>',
        f'<text x="{left + 8}" y="{top + 6}">seconds; line: median, dashes: 95th percentile</text>',
    ]
    for tick in range(1, 6):
        x, y = at(most_x * tick / 5, most_y * tick / 5)
        parts += [f'<text x="{x}" y="{height - 24}" text-anchor="middle">{most_x * tick / 5:.2g}</text>']
        parts += [f'<text x="{left - 6}" y="{y}" text-anchor="end">{most_y * tick / 5:.2g}</text>']
    for number, (kind, colour) in enumerate(zip(kinds, _COLOURS, strict=False)):
        parts += [f'<text x="{left + 8}" y="{top + 24 + 16 * number}" fill="{colour}">{kind}</text>']
        for percent, dashes in ((50, ""), (95, ' stroke-dasharray="6 4"')):
            places = [at(rate, percentile(seconds, percent)) for rate, seconds in times[kind]]
            line = " ".join(f"{x},{y}" for x, y in places)
            parts += [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>']
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
    return "\n".join([*parts, "</svg>"]) + "\n"
