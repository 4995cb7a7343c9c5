"""`narrate plan`: which models of a profile stay on a GPU of some size, which take turns, and how long stages take."""

import contextlib
import itertools
import json
import math
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.table import Table

from narrative.cli.console import out, print_table
from narrative.cli.gpus import size
from narrative.errors import InvalidParameter, OutOfMemory
from narrative.profiles import Turn, load_profile

RESERVE_BYTES = 1 << 30
# What large products reach of a GPU's published speed, roughly.
ATTAINED = 0.4

Gpu = Annotated[str, typer.Option(help="Memory of the GPU, for example 24GiB.")]
ProfileName = Annotated[str, typer.Option(help="Profile to plan for.")]
LlmSleeps = Annotated[bool, typer.Option("--llm-sleeps", help="vLLM sleeps while others need its memory.")]
CopySpeed = Annotated[float, typer.Option(min=0.1, help="Speed of a copy from pinned host memory, in GB/s.")]
Tflops = Annotated[float, typer.Option(min=0.1, help="Dense half-precision speed of the GPU, in TFLOP/s.")]
MemorySpeed = Annotated[float, typer.Option(min=0.1, help="Speed of the GPU's memory, in GB/s.")]


@dataclass(frozen=True)
class Plan:
    """Who stays and who swaps.

    Attributes:
        stays: models that are always on the device.
        swaps: models that take turns in what is left; empty where everything stays.
        left_bytes: what is free while the largest of them works.
    """

    stays: tuple[Turn, ...]
    swaps: tuple[Turn, ...]
    left_bytes: int


def make_plan(turns: list[Turn], budget_bytes: int) -> Plan:
    """Keeps as many bytes of weights on the device as there is room for beside the largest model that swaps.

    Raises:
        OutOfMemory: one model does not fit even with the others away; says by how much.
    """
    fixed = [turn for turn in turns if turn.stays]
    movable = [turn for turn in turns if not turn.stays]
    plans = []
    for count in range(len(movable) + 1):
        for kept in itertools.combinations(movable, count):
            swaps = tuple(turn for turn in movable if turn not in kept)
            needed = sum(turn.num_bytes for turn in (*fixed, *kept)) + max(
                (turn.num_bytes for turn in swaps), default=0
            )
            stays = tuple(turn for turn in turns if turn not in swaps)
            plans.append(Plan(stays, swaps, budget_bytes - needed))
    possible = [plan for plan in plans if plan.left_bytes >= 0]
    if not possible:
        missing = -max(plan.left_bytes for plan in plans)
        raise OutOfMemory(
            f"these models do not fit by turns either: {size(missing)} are missing; {_way_out(turns, budget_bytes)}"
        )
    return max(possible, key=lambda plan: sum(turn.weight_bytes for turn in plan.stays))


def asleep(turns: list[Turn]) -> list[Turn]:
    """The same where the server that stays sleeps by turns."""
    return [turn.model_copy(update={"stays": False}) for turn in turns]


def _way_out(turns: list[Turn], budget_bytes: int) -> str:
    """What to do where models do not fit."""
    if any(turn.stays for turn in turns):
        with contextlib.suppress(OutOfMemory):
            make_plan(asleep(turns), budget_bytes)
            return "with --llm-sleeps they fit"
    return "take smaller models"


def shares(server: Turn, made: Plan, total_bytes: int) -> tuple[float, float]:
    """The least and the greatest share of the device for a server of its own, in whole hundredths.

    The greatest has what the plan leaves over; for one that takes turns it is the least.
    """
    least = math.ceil(100 * server.num_bytes / total_bytes) / 100
    most = math.floor(100 * (server.num_bytes + made.left_bytes) / total_bytes) / 100
    return least, least if server.model in {turn.model for turn in made.swaps} else max(least, most)


def plan(
    gpu: Gpu,
    profile: ProfileName = "single-gpu",
    llm_sleeps: LlmSleeps = False,
    copy_gb_s: CopySpeed = 20.0,
    tflops: Tflops = 120.0,
    memory_gb_s: MemorySpeed = 600.0,
) -> None:
    """Show what stays on a GPU of that size, what takes turns, and what a stage and a turn take."""
    try:
        total = int(TypeAdapter(ByteSize).validate_python(gpu))
    except ValidationError:
        raise InvalidParameter(f"{gpu!r} is no size; write it like 24GiB or 16GB", field="gpu") from None
    turns = load_profile(profile).turns
    if not turns:
        raise InvalidParameter(f"profile {profile!r} puts no models on a GPU; single-gpu does", field="profile")
    servers = [turn for turn in turns if turn.stays]
    if llm_sleeps:
        turns = asleep(turns)
    made = make_plan(turns, total - RESERVE_BYTES)
    columns = ("stage", "model", "weights", "at work", "on the device", "a story", "bringing it in")
    table = Table(*columns, title=f"{profile}, {gpu}")
    for turn in turns:
        swaps = turn in made.swaps
        place = "always, by its own process" if turn.stays else "by turns" if swaps else "always"
        story = f"{turn.story_s(ATTAINED * tflops, memory_gb_s):.1f} s"
        cost = f"{turn.weight_bytes / copy_gb_s / 1e9:.2f} s" if swaps else "-"
        table.add_row(turn.stage, turn.model, size(turn.weight_bytes), size(turn.num_bytes), place, story, cost)
    print_table(table)
    out.print(f"{size(made.left_bytes)} are left, after {size(RESERVE_BYTES)} for CUDA contexts.")
    out.print(
        f"A story is a minute of speech, three speakers and a picture each, reckoned at {ATTAINED:.0%} of {tflops:g} "
        f"TFLOP/s (--tflops) and {memory_gb_s:g} GB/s (--memory-gb-s), not measured."
    )
    if made.swaps:
        out.print(f"Bringing in is reckoned at {copy_gb_s:g} GB/s (--copy-gb-s), not measured.")
        pinned = [turn.model for turn in made.stays if not turn.stays]
        if pinned:
            out.print(f"Set NARRATIVE_RESIDENCY__PINNED='{json.dumps(pinned)}'.")
    for turn in servers:
        least, most = shares(turn, made, total)
        more = f" (up to {most:.2f}, for a larger KV cache)" if most > least else ""
        line = f"Start the server of {turn.model} with --gpu-memory-utilization {least:.2f}{more}"
        if llm_sleeps:
            # Without that mode it does not sleep, and in it whoever reaches it may do what he likes with it.
            line += " --enable-sleep-mode --host 127.0.0.1 and VLLM_SERVER_DEV_MODE=1 in its environment"
            line += f", and set NARRATIVE_PROMPT__RESIDENCY_BYTES={turn.num_bytes}"
        out.print(f"{line}.")
