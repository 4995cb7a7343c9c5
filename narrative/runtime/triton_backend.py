"""What the models of ``deploy/triton/models`` share; runs inside Triton's Python backend only.

Messages of ``narrative.v1`` travel as tensors of bytes. They are handed over by DLPack in both directions: the backend
was built for an older numpy, and with a newer one tensors given as numpy arrays arrive empty.
"""

import ctypes
import os
import threading
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import structlog
import triton_python_backend_utils as pb_utils
from google.protobuf.message import Message

from narrative.errors import NarrativeError
from narrative.runtime.triton_errors import to_triton

log = structlog.get_logger()

# Names: the backend puts its classes into that module only after it has imported the model.
_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARG",
    grpc.StatusCode.OUT_OF_RANGE: "INVALID_ARG",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.ALREADY_EXISTS: "ALREADY_EXISTS",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "UNAVAILABLE",
}
ctypes.pythonapi.PyCapsule_SetDestructor.argtypes = (ctypes.py_object, ctypes.c_void_p)


def take_device(args: Mapping[str, str]) -> str:
    """The device of a model instance, "cpu" or "cuda"; call it before anything that looks for GPUs is imported.

    Every instance is a process of its own, so that hiding all GPUs but one is the way to use that one: no engine needs
    to know of numbers.

    Args:
        args: what ``initialize`` was given.
    """
    if args["model_instance_kind"] != "GPU":
        return "cpu"
    device = args["model_instance_device_id"]
    # The server sees, and counts, only what it was shown; what is set here counts among all.
    if shown := os.environ.get("CUDA_VISIBLE_DEVICES"):
        device = shown.split(",")[int(device)].strip()
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    return "cuda"


def read_bytes(request: Any, name: str) -> bytes | None:
    """The bytes of an input; None where an optional one is not there."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else np.from_dlpack(tensor).tobytes()


def wants(request: Any, name: str) -> bool:
    """Whether the client asks for this output; one that names none asks for all."""
    return name in request.requested_output_names()


def answer(**tensors: bytes) -> Any:
    """A response; every output is given by name."""
    return pb_utils.InferenceResponse([_tensor(name, data) for name, data in tensors.items()])


def failure(error: Exception) -> Any:
    """A response that carries an error to ``narrative.runtime.triton``; what nobody foresaw stays in the log."""
    if not isinstance(error, NarrativeError):
        log.error("unforeseen error", exc_info=error)
        error = NarrativeError("the model failed unexpectedly; the log of the Triton server says how")
    code = getattr(pb_utils.TritonError, _CODES.get(error.grpc_code, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(to_triton(error), code))


class Replies:
    """The answers to one request of a decoupled model; safe to use from several threads.

    Args:
        request: the request.
        output: tensor that every answer goes into.
    """

    def __init__(self, request: Any, output: str) -> None:
        self._sender = request.get_response_sender()
        self._output = output
        self._finished = False
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether the client has gone away before the end."""
        # The server crashes where it is asked about a request that has had its last answer.
        with self._lock:
            return not self._finished and bool(self._sender.is_cancelled())

    def send(self, message: Message) -> None:
        """Sends an answer; more may follow."""
        with self._lock:
            self._sender.send(answer(**{self._output: message.SerializeToString()}))

    def finish(self, error: Exception | None = None) -> None:
        """Sends the end, with an error if there is one; nothing may follow."""
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        with self._lock:
            self._finished = True
            if error is None:
                self._sender.send(flags=final)
            else:
                self._sender.send(failure(error), flags=final)


def _tensor(name: str, data: bytes) -> Any:
    capsule = np.frombuffer(bytearray(data), np.uint8)[np.newaxis].__dlpack__()
    # The backend takes the memory over and frees it, but renames the capsule in a way that numpy's own destructor
    # complains about.
    ctypes.pythonapi.PyCapsule_SetDestructor(capsule, None)
    return pb_utils.Tensor.from_dlpack(name, capsule)
