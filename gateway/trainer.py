"""The trainer, as the gateway speaks to it; an installation may do without."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from narrative.errors import DeadlineExceeded, NarrativeError, ServiceUnavailable
from narrative.runtime.channel import call_metadata, open_channel, rpc_errors
from narrative.v1 import trainer_pb2, trainer_pb2_grpc


class Trainer:
    """A channel to the trainer.

    Every method raises the NarrativeError that the trainer raised, or ServiceUnavailable.

    Args:
        interceptors: client interceptors of ``narrative.runtime.tracing``.
    """

    def __init__(self, settings: GatewaySettings, interceptors: Sequence[Any] = ()) -> None:
        self._settings = settings
        self._channel = open_channel(settings.trainer_target, interceptors) if settings.trainer_target else None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def recipes(self) -> list[trainer_pb2.Recipe]:
        """The recipes and what may be set."""
        return list((await self._ask("ListRecipes", trainer_pb2.ListRecipesRequest())).recipes)

    async def check(self, recipe: str, settings: str) -> str:
        """What the result will be published as, such as "adapters/seal"; "" where it will not be.

        Raises:
            NarrativeError: what ``train`` would raise about the recipe and its settings (a JSON object).
        """
        request = trainer_pb2.CheckTrainingRequest(recipe=recipe, settings=settings)
        return str((await self._ask("CheckTraining", request)).publishes)

    async def train(self, request: trainer_pb2.TrainRequest) -> AsyncIterator[trainer_pb2.TrainResponse]:
        """Trains, and yields what happens; leaving early stops the training at a checkpoint."""
        stub = self._stub()
        with rpc_errors("trainer"):
            call = stub.Train(request, timeout=self._settings.trainer_deadline_s, metadata=call_metadata())
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def forget(self, job_id: str) -> None:
        """Drops data and checkpoints of a training."""
        await self._ask("ForgetTraining", trainer_pb2.ForgetTrainingRequest(job_id=job_id))

    async def missing(self) -> str:
        """Why it cannot be used now; "" where it can, or where there is none to be used."""
        if self._channel is None:
            return ""
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service="narrative.v1.TrainerService")
        try:
            with rpc_errors("trainer"):
                response = await stub.Check(request, timeout=self._settings.list_deadline_s)
        except NarrativeError as error:
            return error.message
        return "" if response.status == health_pb2.HealthCheckResponse.SERVING else "trainer is not ready"

    async def _ask(self, method: str, request: Any) -> Any:
        stub = self._stub()
        try:
            with rpc_errors("trainer"):
                return await getattr(stub, method)(
                    request, timeout=self._settings.list_deadline_s, metadata=call_metadata()
                )
        except DeadlineExceeded as error:
            # Nothing of this takes time: a trainer that does not answer is down, however its connection looks.
            raise ServiceUnavailable("trainer does not answer", retry_after_s=1.0) from error

    def _stub(self) -> Any:
        if self._channel is None:
            raise ServiceUnavailable(
                "there is no trainer here; start one and set NARRATIVE_GATEWAY__TRAINER_TARGET to train"
            )
        return trainer_pb2_grpc.TrainerServiceStub(self._channel)
