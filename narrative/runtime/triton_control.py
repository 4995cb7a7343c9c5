"""Having a Triton server load and unload a model, and waiting for it; every call blocks."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import structlog
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from narrative.errors import ModelNotFound, NarrativeError, ServiceUnavailable, from_rpc_error
from narrative.runtime.triton_errors import from_triton
from narrative.settings import TritonSettings

log = structlog.get_logger()
_LOOK_S = 0.1
_ASK_S = 10.0


class TritonControl:
    """One model of a server that was started with ``--model-control-mode=explicit``; safe to use from many threads.

    Args:
        client: to be closed by whoever made it.
        settings: the model's name and the limits of time.
        where: address of the server, for logs.
    """

    def __init__(self, client: InferenceServerClient, settings: TritonSettings, where: str) -> None:
        self._client: Any = client
        self._settings = settings
        self._model = settings.triton_model
        self._where = where
        self._loading = threading.Lock()
        self.loads = 0
        """Loads so far, for ``revive``."""

    def await_server(self) -> None:
        """Raises ServiceUnavailable if the server does not answer within ``triton_startup_wait_s``."""
        until_s = time.monotonic() + self._settings.triton_startup_wait_s
        while True:
            try:
                with self.errors():
                    self._client.is_server_live(client_timeout=_ASK_S)
                return
            except NarrativeError as error:
                if time.monotonic() >= until_s:
                    raise
                log.debug("waiting for Triton", reason=str(error))
            time.sleep(_LOOK_S)

    def load(self, *, on_one_gpu: bool = False) -> None:
        """Has the model loaded, unless it is ready.

        Args:
            on_one_gpu: refuse a model that has instances on several.

        Raises:
            ModelNotFound: the repository has no such model; names those it has.
            ServiceUnavailable: the server is away, or cannot load the model; says why.
            NarrativeError: it has instances on several GPUs, or does not say where; it is unloaded again.
        """
        self._load()
        if on_one_gpu:
            try:
                self._refuse_several_gpus()
            except NarrativeError:
                # Nobody books what is not loaded, and nobody would know of it.
                with contextlib.suppress(NarrativeError):
                    self.unload()
                raise

    def _refuse_several_gpus(self) -> None:
        if len(gpus := self._gpus()) > 1:
            # Not ServiceUnavailable: to try again would load it again, and help nothing.
            raise NarrativeError(
                f"Triton runs {self._model} on the GPUs {', '.join(map(str, gpus))}, and its bytes are booked on one: "
                "start Triton with one GPU in CUDA_VISIBLE_DEVICES, name it in the model's instance_group, or set no "
                "bytes that the model gives up",
                where=self._where,
            )

    def _load(self) -> None:
        with self._loading:
            with self.errors():
                if self._client.is_model_ready(self._model, client_timeout=_ASK_S):
                    return
                known = sorted({model.name for model in self._index()})
                if self._model not in known:
                    raise ModelNotFound(
                        f"Triton has no model {self._model!r}; its repository has {', '.join(known) or 'none'}",
                        field="model",
                        where=self._where,
                    )
            self._have_loaded()

    def revive(self, loads: int) -> None:
        """Has the model loaded anew, unless another call did since there were so many loads; errors as ``load``."""
        with self._loading:
            if self.loads == loads:
                # Triton takes a model that it has loaded for a good one, and would not load it again. It may wait for
                # ever for what the dead process was working on, so nobody waits for the end of its unloading.
                with self.errors():
                    self._client.unload_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
                self._have_loaded()

    def unload(self) -> None:
        """Has the model unloaded, and waits until its memory is free.

        Raises:
            ServiceUnavailable: the server does not unload it.
        """
        with self._loading:
            until_s = time.monotonic() + self._settings.triton_load_timeout_s
            try:
                self._client.unload_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
                # It still ends what it was working on.
                while self._is_unloading():
                    if time.monotonic() >= until_s:
                        raise ServiceUnavailable(f"Triton does not get {self._model} unloaded", where=self._where)
                    time.sleep(_LOOK_S)
            except InferenceServerException as error:
                # A server that is gone has given the memory back.
                if self._is_live():
                    raise ServiceUnavailable(
                        f"Triton cannot unload {self._model}: {error.message()}; it must have been started with "
                        "--model-control-mode=explicit, or this service without bytes to give up",
                        where=self._where,
                    ) from error

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what the client raises into errors of this project."""
        try:
            yield
        except InferenceServerException as error:
            raise from_triton(error.message(), error.status(), self._where, self._model) from error
        except grpc.RpcError as error:
            raise from_rpc_error(error, "Triton") from error

    def _have_loaded(self) -> None:
        started_s = time.monotonic()
        try:
            self._client.load_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
        except InferenceServerException as error:
            # The rest is where in the code it was, which the server's log has too.
            why = error.message().partition("\n")[0]
            raise ServiceUnavailable(f"Triton cannot load {self._model}: {why}", where=self._where) from error
        self.loads += 1
        log.info("Triton loaded", model=self._model, load_s=round(time.monotonic() - started_s, 2))

    def _gpus(self) -> list[int]:
        """GPUs on which the loaded model has instances; the server says what KIND_AUTO of its file came to."""
        with self.errors():
            answer = self._client.get_model_config(self._model, client_timeout=_ASK_S)
        return sorted({gpu for group in answer.config.instance_group for gpu in group.gpus})

    def _is_unloading(self) -> bool:
        return any(model.name == self._model and model.state == "UNLOADING" for model in self._index())

    def _is_live(self) -> bool:
        try:
            return bool(self._client.is_server_live(client_timeout=_ASK_S))
        except InferenceServerException:
            return False

    def _index(self) -> Any:
        return self._client.get_model_repository_index(client_timeout=_ASK_S).models
