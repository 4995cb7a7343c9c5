"""Memory of a GPU that a process takes which knows nothing of residency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from narrative.errors import OutOfMemory, ResourceExhausted
from services.residency import coordinator
from services.residency.inventory import budget_beside_strangers
from services.residency.settings import ResidencySettings
from services.residency.state import Device
from tests.integration.residency.residency_node import Node, Noted, hold

TOTAL, RESERVE = 110, 10


class Card:
    """A GPU as NVML shows it: how much is used, and not by whom."""

    def __init__(self) -> None:
        self.models: dict[str, int] = {}
        self.stranger_bytes = 0

    def devices(self) -> list[Device]:
        return [Device("cuda:0", "a card", TOTAL, self.budget_bytes("cuda:0", 0), RESERVE)]

    def budget_bytes(self, device: str, booked_bytes: int) -> int:
        used = self.stranger_bytes + sum(self.models.values())
        return budget_beside_strangers(TOTAL, used, booked_bytes, RESERVE)

    def close(self) -> None:
        pass


class OnCard(Noted):
    """A model whose bytes NVML counts as used."""

    def __init__(self, card: Card, name: str, num_bytes: int) -> None:
        super().__init__()
        self.card, self.name, self.num_bytes = card, name, num_bytes

    def load(self, device: str) -> None:
        super().load(device)
        self.card.models[self.name] = self.num_bytes

    def offload(self) -> None:
        super().offload()
        del self.card.models[self.name]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(coordinator, "open_inventory", lambda *settings: card)
    monkeypatch.setattr(coordinator, "_LOOK_S", 0.0)
    return card


@pytest.fixture
async def node(card: Card) -> AsyncIterator[Node]:
    node = Node(ResidencySettings(port=0, recovery_s=0.0, min_resident_s=0.0, drain_s=0.1))
    await node.start()
    yield node
    for client in node.clients:
        await asyncio.to_thread(client.close)
    await node.stop()


async def test_idle_models_leave_for_a_stranger_and_come_back_when_it_has_gone(node: Node, card: Card) -> None:
    whisper, sdxl = OnCard(card, "whisper", 30), OnCard(card, "sdxl", 60)
    owner = node.owner("both", whisper=(30, whisper), sdxl=(60, sdxl))
    for model in ("whisper", "sdxl"):
        await asyncio.to_thread(hold, owner, model)
    card.stranger_bytes = 40
    await node.until(lambda state: state.devices[0].budget_bytes == 70)
    await node.until(lambda state: state.devices[0].booked_bytes == 60)
    assert whisper.moves == ["to cuda:0", "away"], "the one that was used longest ago"

    card.stranger_bytes = 70
    await node.until(lambda state: state.devices[0].booked_bytes == 0)
    waiting = asyncio.create_task(asyncio.to_thread(hold, owner, "sdxl"))
    await node.until(lambda state: [one.model for one in state.waiting] == ["sdxl"])
    assert await asyncio.to_thread(hold, owner, "whisper") == "cuda:0"

    card.stranger_bytes = 0
    await node.until(lambda state: state.devices[0].budget_bytes == 100)
    assert await waiting == "cuda:0"
    assert sum(card.models.values()) == 90


async def test_a_stranger_that_stays_is_waited_for_until_the_deadline(node: Node, card: Card) -> None:
    sdxl = OnCard(card, "sdxl", 60)
    short = node.owner("short", wait_s=0.3, sdxl=(60, sdxl))
    card.stranger_bytes = 70
    await node.until(lambda state: state.devices[0].budget_bytes == 40)
    with pytest.raises(ResourceExhausted, match="no memory within") as caught:
        await asyncio.to_thread(hold, short, "sdxl")
    assert caught.value.retry_after_s == 5.0
    with pytest.raises(OutOfMemory, match="lacks 1 bytes"):
        await asyncio.to_thread(hold, node.owner("large", flux=(101, sdxl)), "flux")
