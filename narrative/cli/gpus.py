"""`narrate gpus`: whose weights are in the memory of which device."""

from typing import Any

from rich.table import Table

from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, out, print_table


def gpus(url: Url = None, api_key: ApiKey = "") -> None:
    """Show the devices, the models on them, and who waits for room."""
    with open_client(url, api_key) as client:
        state = client.document("GET", "/v1/gpus", "devices")
    for device in state["devices"]:
        title = (
            f"{device['id']} {device['name']}: {size(device['booked_bytes'])} of {size(device['budget_bytes'])} booked"
        )
        print_table(_table(title, device["models"]))
    if state["away"]:
        print_table(_table("on no device", state["away"]))
    for waiting in state["waiting"]:
        line = f"{waiting['owner']} waits for {size(waiting['num_bytes'])} for {waiting['model']}"
        out.print(f"{line}, {waiting['waited_s']:.1f} s so far")


def size(num_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def _table(title: str, models: list[dict[str, Any]]) -> Table:
    table = Table("model", "owner", "needs", "state", title=title, title_justify="left")
    for model in models:
        table.add_row(model["model"], model["owner"], size(model["num_bytes"]), _state(model))
    return table


def _state(model: dict[str, Any]) -> str:
    if model["is_leaving"]:
        return "leaving"
    state = f"in use by {model['leases']}" if model["leases"] else f"idle for {model['idle_s']:.0f} s"
    return f"{state}, pinned" if model["is_pinned"] else state
