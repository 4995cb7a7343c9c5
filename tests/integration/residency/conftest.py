"""The residency service on a real port."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.residency.settings import ResidencySettings
from tests.integration.residency.residency_node import Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    settings = ResidencySettings(
        port=0,
        devices={"host:0": 100},
        recovery_s=0.5,
        min_resident_s=0.0,
        grace_s=0.5,
        heartbeat_s=0.2,
        owner_timeout_s=5.0,
        drain_s=0.1,
    )
    node = Node(settings)
    await node.start()
    yield node
    for client in node.clients:
        await asyncio.to_thread(client.close)
    await node.stop()
