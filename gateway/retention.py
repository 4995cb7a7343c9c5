"""Stories whose time is up, and what belongs to no story any more.

Any gateway may sweep at any time, several at the same time too: what one has removed already is nothing to the others,
and the row goes last, so that what was cut off is removed by the next sweep.
"""

from datetime import timedelta

import structlog

from gateway.jobs import Jobs, now_us
from gateway.settings import GatewaySettings
from gateway.store import NARRATIVES, narrative_key
from gateway.workflow import Narrator
from narrative.objects import Objects

_AT_ONCE = 500
log = structlog.get_logger()


class Retention:
    """Removes narratives with everything that belongs to them."""

    def __init__(self, settings: GatewaySettings, jobs: Jobs, objects: Objects, narrator: Narrator) -> None:
        self._keep = timedelta(days=settings.story_retention_days)
        self._keep_cut_off_s = settings.upload_retention_s
        self._jobs = jobs
        self._objects = objects
        self._narrator = narrator

    async def erase(self, narrative_id: str) -> None:
        """Removes one that has finished: recording, transcript, scenes, pictures, story, workflow, events and row."""
        await self._objects.delete_folder(narrative_key(narrative_id))
        await self._narrator.forget(narrative_id)
        await self._jobs.delete(narrative_id)

    async def sweep(self) -> None:
        """Removes those that finished longer ago than they are kept, and recordings that never became a narrative."""
        if self._keep:
            before_us = now_us() - self._keep // timedelta(microseconds=1)
            while old := await self._jobs.finished_before(before_us, _AT_ONCE):
                for narrative_id in old:
                    await self.erase(narrative_id)
                log.info("old stories removed", count=len(old), kept_days=self._keep / timedelta(days=1))
        await self._sweep_cut_off()

    async def _sweep_cut_off(self) -> None:
        ids = [folder.rpartition("/")[2] for folder in await self._objects.folders(NARRATIVES)]
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            for narrative_id in set(some) - await self._jobs.known(some):
                await self._objects.delete_folder(narrative_key(narrative_id), self._keep_cut_off_s)
