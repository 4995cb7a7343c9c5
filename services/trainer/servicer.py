"""The contract of the trainer: hands trainings to the engine, tells how they go on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from narrative.runtime.executor import BoundedExecutor
from narrative.runtime.server import Service
from narrative.v1 import trainer_pb2, trainer_pb2_grpc
from services.trainer.engine import (
    TrainerEngine,
    Training,
    TrainingCheckpoint,
    TrainingEpoch,
    TrainingNote,
    TrainingResult,
    TrainingSample,
    TrainingStep,
    as_fields,
)
from services.trainer.settings import TrainerSettings

Context = grpc.aio.ServicerContext[object, object]

_FIELDS = {
    TrainingNote: "note",
    TrainingStep: "step",
    TrainingEpoch: "epoch",
    TrainingCheckpoint: "checkpoint",
    TrainingSample: "sample",
    TrainingResult: "result",
}


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    def __init__(self, engine: TrainerEngine, settings: TrainerSettings) -> None:
        self._engine = engine
        self._executor = BoundedExecutor("trainer", settings.max_workers, settings.max_queue)
        # Questions must not wait behind trainings.
        self._questions = BoundedExecutor("trainer-questions", 1, 64)

    async def ListRecipes(
        self, request: trainer_pb2.ListRecipesRequest, context: Context
    ) -> trainer_pb2.ListRecipesResponse:
        recipes = await self._questions.run(self._engine.recipes)
        return trainer_pb2.ListRecipesResponse(recipes=[trainer_pb2.Recipe(**vars(recipe)) for recipe in recipes])

    async def CheckTraining(
        self, request: trainer_pb2.CheckTrainingRequest, context: Context
    ) -> trainer_pb2.CheckTrainingResponse:
        publishes = await self._questions.run(lambda: self._engine.check(request.recipe, request.settings))
        return trainer_pb2.CheckTrainingResponse(publishes=publishes)

    async def Train(
        self, request: trainer_pb2.TrainRequest, context: Context
    ) -> AsyncIterator[trainer_pb2.TrainResponse]:
        training = Training(request.job_id, request.recipe, request.settings, request.dataset)
        async for event in self._executor.stream(lambda cancelled: self._engine.train(training, cancelled)):
            yield trainer_pb2.TrainResponse(**{_FIELDS[type(event)]: as_fields(event)})

    async def ForgetTraining(
        self, request: trainer_pb2.ForgetTrainingRequest, context: Context
    ) -> trainer_pb2.ForgetTrainingResponse:
        await self._questions.run(lambda: self._engine.forget(request.job_id))
        return trainer_pb2.ForgetTrainingResponse()


def make_service(settings: TrainerSettings, engine: TrainerEngine) -> Service:
    """The service around an engine."""
    servicer = TrainerServicer(engine, settings)
    return Service(
        name="trainer",
        full_name="narrative.v1.TrainerService",
        engine=engine,
        register=lambda server: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server),
        models=lambda: (),
    )
