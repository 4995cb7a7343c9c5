"""The ledger among the living: connections of owners, time, the real memory of the devices, metrics."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence

import structlog

from narrative.errors import InvalidParameter
from services.residency import metrics
from services.residency.inventory import Inventory, open_inventory
from services.residency.ledger import Ledger
from services.residency.settings import ResidencySettings
from services.residency.state import Claim, Decision, Disconnect, Granted, Refused, Snapshot

log = structlog.get_logger()
_TICK_S = 0.1
_LOOK_S = 1.0


class Session:
    """The connection of one owner; ``decisions`` ends with None when the connection is to be closed."""

    def __init__(self, owner: str, name: str) -> None:
        self.owner = owner
        self.name = name
        self.said_goodbye = False
        self.decisions: asyncio.Queue[Decision | None] = asyncio.Queue()


class Coordinator:
    """Everything but ``load`` and ``close`` runs on the event loop, so the ledger needs no lock."""

    def __init__(self, settings: ResidencySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._inventory: Inventory | None = None
        self._ledger: Ledger | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def ledger(self) -> Ledger:
        assert self._ledger is not None, "load() comes first"
        return self._ledger

    def load(self) -> None:
        """Finds the devices.

        Raises:
            WeightsError: none is declared and there is no GPU.
        """
        settings = self._settings
        self._inventory = open_inventory(settings.devices, int(settings.reserve_bytes), settings.cuda_visible_devices)
        devices = self._inventory.devices()
        self._ledger = Ledger(devices, self._clock, settings.rules, settings.pinned, uuid.uuid4().hex[:8])
        for device in devices:
            log.info("device", id=device.id, name=device.name, budget_bytes=device.budget_bytes)

    def close(self) -> None:
        if self._inventory is not None:
            self._inventory.close()

    def attach(self, owner: str, name: str, claims: Sequence[Claim]) -> Session:
        """Opens the session of an owner; one it had before is closed.

        Raises:
            InvalidParameter: it claims to hold something on a device that is not there.
        """
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick_for_ever())
        known = {device.id for device in self.ledger.snapshot().devices}
        strange = {claim.device for claim in claims} - known - {""}
        if strange:
            raise InvalidParameter(
                f"no device {', '.join(sorted(strange))}; there are {', '.join(sorted(known))}", field="models"
            )
        if (before := self._sessions.get(owner)) is not None:
            before.decisions.put_nowait(None)
        session = self._sessions[owner] = Session(owner, name)
        log.info("attached", owner=owner, models=[claim.model for claim in claims])
        self.carry_out(self.ledger.attach(owner, name, claims))
        return session

    def detach(self, session: Session, *, is_gone: bool) -> None:
        """The session has ended; ``is_gone`` where the owner said good-bye."""
        if self._sessions.get(session.owner) is session:
            del self._sessions[session.owner]
            log.info("left" if is_gone else "connection lost", owner=session.owner)
            self.carry_out(self.ledger.detach(session.owner, is_gone=is_gone))

    def prefetch(self, model: str, wait_s: float) -> None:
        """Brings a model in, if there is room within ``wait_s``."""
        self.carry_out(self.ledger.prefetch(model, wait_s))

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        return self.ledger.snapshot()

    def carry_out(self, decisions: Sequence[Decision]) -> None:
        """Hands decisions to the owners they are for."""
        for decision in decisions:
            metrics.count(decision)
            session = self._sessions.get(decision.owner)
            if session is not None:
                session.decisions.put_nowait(None if isinstance(decision, Disconnect) else decision)
            if isinstance(decision, Refused):
                log.info("refused", model=decision.model, owner=decision.owner, reason=decision.reason)
            if isinstance(decision, Granted):
                for model in self._settings.prefetch.get(decision.model, ()):
                    self.prefetch(model, self._settings.prefetch_wait_s)

    async def _tick_for_ever(self) -> None:
        looked_s = self._clock()
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                self.carry_out(self.ledger.tick())
                if self._clock() - looked_s >= _LOOK_S:
                    looked_s = self._clock()
                    await self._look_at_devices()
                metrics.report(self.snapshot())
            # Without the ticks nobody's deadline would ever come.
            except Exception:
                log.exception("tick failed")

    async def _look_at_devices(self) -> None:
        assert self._inventory is not None
        snapshot = self.snapshot()
        for device in snapshot.devices:
            booked = snapshot.booked_bytes(device.id)
            budget = await asyncio.to_thread(self._inventory.budget_bytes, device.id, booked)
            if budget != device.budget_bytes:
                self.carry_out(self.ledger.set_budget(device.id, budget))
