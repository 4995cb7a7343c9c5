"""How long does a story take on the embedded profile, and how much memory do all processes need together?

Starts the ensemble, tells one story to warm it up, then tells the same recording again and measures. The baseline of
the ratio is the length of the recording. Run: python benchmarks/story.py [RECORDING]
"""

import asyncio
import sys
import time
from pathlib import Path

import av

from narrative.cli.client import Client
from narrative.cli.ensemble import ensemble
from narrative.cli.supervisor import Supervisor

DEFAULT = Path(__file__).parents[1] / "examples" / "three-voices.flac"


def proportional_set_bytes(supervisor: Supervisor) -> dict[str, int]:
    """Memory of each process, pages shared with others divided among them (PSS, Linux)."""
    sizes = {}
    for managed in supervisor.processes:
        assert managed.process is not None
        rollup = Path(f"/proc/{managed.process.pid}/smaps_rollup").read_text()
        sizes[managed.name] = next(
            int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return sizes


def tell(client: Client, recording: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds to the first picture, seconds to the whole story, and seconds at which each stage was seen to end."""
    started = time.perf_counter()
    narrative = client.create_narrative(recording, {"seed": 1})
    first_image_s, marks = 0.0, {}
    for event in client.events(narrative["id"]):
        now_s = time.perf_counter() - started
        if event.type == "image" and not first_image_s:
            first_image_s = now_s
        if event.type in ("transcript", "scene", "image"):
            marks[f"last {event.type}"] = now_s
        if event.type == "finished" and event.data["status"] != "succeeded":
            raise SystemExit(f"the story failed: {event.data}")
    return first_image_s, time.perf_counter() - started, marks


async def main(recording: Path) -> None:
    with av.open(str(recording)) as container:
        length_s = float(container.duration or 0) / av.time_base
    async with ensemble(0, "embedded", show_logs=False) as supervisor:
        with Client(supervisor.url) as client:
            cold_first_s, cold_s, _ = await asyncio.to_thread(tell, client, recording)
            runs = [await asyncio.to_thread(tell, client, recording) for _ in range(3)]
        first_image_s, story_s, marks = sorted(runs, key=lambda run: run[1])[1]
        memory = proportional_set_bytes(supervisor)
    print(f"recording                 {length_s:6.1f} s")
    print(f"first story               {cold_s:6.1f} s   first picture {cold_first_s:5.1f} s")
    print(f"warm story (median of 3)  {story_s:6.1f} s   first picture {first_image_s:5.1f} s")
    print(f"  seen at: {', '.join(f'{name} {at_s:.1f} s' for name, at_s in marks.items())}")
    print(f"warm story / recording    {story_s / length_s:6.2f}")
    print(f"memory, all processes     {sum(memory.values()) / 2**30:6.2f} GiB (PSS)")
    for name, size in memory.items():
        print(f"  {name:<24}{size / 2**20:6.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
