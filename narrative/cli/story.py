"""`narrate story`: a recording becomes a story, with live progress."""

import asyncio
import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from narrative.catalogue import Catalogue
from narrative.cli.adapters import Adapters, adapter_options
from narrative.cli.client import ApiError, Client, open_client
from narrative.cli.console import ApiKey, Url, err, out
from narrative.cli.ensemble import ensemble, heard_out, heeding_signals
from narrative.cli.models import pull_all
from narrative.cli.output import check_folder
from narrative.cli.recording import (
    Language,
    MaxSpeakers,
    MinSpeakers,
    Recording,
    Speakers,
    Temperature,
    check_recording,
)
from narrative.cli.running import state_file
from narrative.cli.story_folder import default_folder, own_folder, write_story
from narrative.cli.supervisor import check_startable
from narrative.errors import NarrativeError
from narrative.hashing import sha256_of
from narrative.settings import CommonSettings, read_settings

_PROFILE = "embedded"
# How long a story that is ended waits for the id of what is being sent.
SENDING_TIMEOUT_S = 10.0


def story(
    file: Recording,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the story.", show_default="./stories/FILE")
    ] = None,
    language: Language = "",
    speakers: Speakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    words: Annotated[bool, typer.Option("--words", help="Also keep every word's times in story.json.")] = False,
    temperature: Temperature = None,
    style: Annotated[str, typer.Option(help="Style of the pictures; chosen from what was said by default.")] = "",
    images: Annotated[int, typer.Option(min=1, max=8, help="Pictures for each speaker.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, for the same pictures again.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    model: Annotated[str, typer.Option(help="Model to draw with; see `narrate models list`.")] = "",
    adapter: Adapters = None,
    asr_model: Annotated[str, typer.Option(help="Transcription model by name; the default one otherwise.")] = "",
    scene_model: Annotated[
        str, typer.Option(help="Language model that writes the scenes, or a LoRA adapter of it, by name.")
    ] = "",
    translation: Annotated[str, typer.Option(help="Translation engine, for example gloss or whisper.")] = "",
    stages: Annotated[
        bool, typer.Option("--stages", help="Show what was heard, what was mended and what was seen.")
    ] = False,
    start: Annotated[bool, typer.Option("--up", help="Start the ensemble for this one story.")] = False,
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Turn a recording into an illustrated story: story.json, story.html and a PNG for every picture."""
    check_recording(file)
    options: dict[str, Any] = {
        "language": language,
        "num_speakers": speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "word_timestamps": words or None,
        "temperature": temperature,
        "style": style,
        "num_images": images,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "model": model,
        "adapters": adapter_options(adapter),
        "asr_model": asr_model,
        "scene_model": scene_model,
        "translation_engine": translation,
    }
    chosen = {key: value for key, value in options.items() if value not in ("", None)}
    # Once, and now: a recording may be moved before its story is told.
    digest = sha256_of(file)
    check_folder(output or default_folder(file, digest))
    if start:
        check_startable(state_file(read_settings(CommonSettings).data_dir), 0)
        pull_all(Catalogue().for_profile(_PROFILE))
        if ended_by := asyncio.run(heeding_signals(_with_ensemble(file, digest, output, chosen, stages, api_key))):
            raise typer.Exit(128 + ended_by)
    else:
        with open_client(url, api_key) as client:
            make_story(client, file, digest, output, chosen, stages)


async def _with_ensemble(
    file: Path, sha256: str, output: Path | None, options: dict[str, Any], stages: bool, api_key: str
) -> None:
    async with ensemble(0, _PROFILE, show_logs=False) as supervisor:
        with Client(supervisor.url, api_key) as client:
            sending = asyncio.create_task(asyncio.to_thread(send, client, file, options))
            try:
                narrative_id = await asyncio.shield(sending)
                await asyncio.to_thread(receive, client, narrative_id, file, sha256, output, stages)
            except BaseException:
                # Whatever it was: jobs are durable, and the next ensemble in this data folder would go on with it.
                # A terminal that is gone is noticed by what is written, and then its signal comes.
                await heard_out(_cancel_sent(client, sending))
                raise


async def _cancel_sent(client: Client, sending: asyncio.Task[str]) -> None:
    """Cancels a narrative, also one that is being sent: a thread goes on with that, and its job has no id before.

    Sending that takes longer than SENDING_TIMEOUT_S is left to break when the client closes.
    """
    await asyncio.wait({sending}, timeout=SENDING_TIMEOUT_S)
    if sending.done() and sending.exception() is None:
        await asyncio.to_thread(cancel, client, sending.result())


def make_story(
    client: Client, file: Path, sha256: str, output: Path | None, options: dict[str, Any], stages: bool
) -> None:
    """Sends a recording, follows its progress, and writes the story.

    Ctrl-C cancels the job. While the recording is being sent it breaks that off, and a gateway that has all of it by
    then but has not answered yet tells the story all the same.
    """
    narrative_id = send(client, file, options)
    try:
        receive(client, narrative_id, file, sha256, output, stages)
    except KeyboardInterrupt:
        cancel(client, narrative_id)
        raise


def send(client: Client, file: Path, options: dict[str, Any]) -> str:
    """Sends a recording; returns the id of its narrative."""
    with err.status(f"sending {file.name}"):
        return str(client.create_narrative(file, options)["id"])


def cancel(client: Client, narrative_id: str) -> None:
    """Cancels a narrative, where it has not ended; a gateway or a terminal that is gone is no error any more."""
    with suppress(NarrativeError, OSError):
        left = client.document("POST", f"/v1/narratives/{narrative_id}/cancel", "status")
        if left["status"] == "cancelled":
            err.print("cancelled")


def receive(client: Client, narrative_id: str, file: Path, sha256: str, output: Path | None, stages: bool) -> None:
    """Follows a narrative's progress and writes its story, with the digest of its recording.

    Args:
        output: folder for the story; without one, the default folder as it is found when the story is there.
    """
    follow(client, narrative_id)
    with own_folder(file, sha256) if output is None else nullcontext(output) as folder:
        write_story(client, narrative_id, folder, sha256)
        told = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    if stages:
        show_stages(told)
    else:
        show_summary(told)
    out.print(f"story: {folder / 'story.html'}", soft_wrap=True)


def follow(client: Client, narrative_id: str) -> None:
    """Shows progress until a narrative has finished.

    Raises:
        ApiError: it failed or was cancelled; says why.
    """
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) if err.is_terminal else nullcontext() as progress:
        bars: dict[str, TaskID] = {}
        waited_for = ""

        def show(name: str, fraction: float, note: str = "") -> None:
            if progress is None:
                if note:
                    err.print(note)
                return
            if name not in bars:
                bars[name] = progress.add_task(name, total=1.0)
            progress.update(bars[name], completed=fraction, description=f"{name} {note}".strip())

        for event in client.events(narrative_id):
            data = event.data
            if event.type == "waiting":
                # It comes with every attempt.
                if data["detail"] != waited_for:
                    err.print(f"waiting: {data['detail']}", soft_wrap=True)
                waited_for = data["detail"]
            elif event.type == "stage":
                show(data["stage"], data["fraction"])
            elif event.type == "transcript":
                show("transcription", 1.0, f"{len(data['segments'])} segments")
            elif event.type == "scene":
                show(data["speaker"], 0.2, data["scene"]["scene"])
            elif event.type == "image_step":
                show(data["speaker"], 0.2 + 0.8 * data["step"] / max(1, data["num_steps"]))
            elif event.type == "image":
                show(data["speaker"], 1.0, f"picture {data['index']}")
            elif event.type == "finished" and data["status"] != "succeeded":
                problem = data.get("error") or {}
                raise ApiError(problem.get("detail", data["status"]))


def show_summary(told: dict[str, Any]) -> None:
    """Who said what, and what was drawn, in a few lines."""
    table = Table("speaker", "said", "drawn", expand=True)
    for speaker in told["speakers"]:
        table.add_row(speaker["speaker"], speaker["text"], speaker["prompt"])
    out.print(table)


def show_stages(told: dict[str, Any]) -> None:
    """The three stages one under the other: segments as heard, as mended, and the scenes of the speakers."""
    for title, key in (("Segments", "text"), ("Normalised", "normalized_text")):
        table = Table("start", "end", "speaker", "text", title=title, title_justify="left", expand=True)
        for segment in told["segments"]:
            times = (f"{segment['start_s']:.2f}", f"{segment['end_s']:.2f}")
            table.add_row(*times, segment["speaker"], segment.get(key, ""))
        out.print(table)
    for speaker in told["speakers"]:
        table = Table(title=speaker["speaker"], title_justify="left", show_header=False, expand=True)
        for key in ("text", "scene", "details", "style", "visual_prompt", "prompt"):
            value = speaker.get(key, "")
            table.add_row(key, ", ".join(value) if isinstance(value, list) else value)
        out.print(table)
