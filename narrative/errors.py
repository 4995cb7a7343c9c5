"""Every error the ensemble raises on purpose, and its two mappings: to gRPC and to HTTP.

NarrativeError
├── InvalidInput                  the caller can mend it                INVALID_ARGUMENT     422
│   ├── InvalidParameter          one field is out of range or unknown
│   ├── AudioUndecodable          the bytes are no audio FFmpeg can read
│   ├── AudioRejected             audio, but outside the limits (rate, channels, length)
│   ├── NoSpeech                  audio, but nobody speaks
│   ├── ImageUndecodable          the bytes are no picture
│   ├── DatasetInvalid            a data set cannot be trained on
│   ├── TrainingDiverged          the loss is no number any more
│   └── PayloadTooLarge           more bytes than the limit             OUT_OF_RANGE         413
├── Unauthenticated               no key, or an unknown one             UNAUTHENTICATED      401
├── NotFound                      no such thing                         NOT_FOUND            404
│   ├── ModelNotFound
│   └── AdapterNotFound
├── Conflict                      clashes with what is already there    ALREADY_EXISTS       409
├── ResourceExhausted             try again later                       RESOURCE_EXHAUSTED   429
│   ├── QueueFull                 as many requests wait as may wait
│   ├── OutOfMemory               the device has no room for this request
│   └── DiskFull                  no room to write a result
├── Cancelled                     the caller gave up                    CANCELLED            499
├── DeadlineExceeded              it took longer than the caller waits  DEADLINE_EXCEEDED    504
├── ServiceUnavailable            a part of the ensemble is not there   UNAVAILABLE          503
├── StorageUnavailable            bytes cannot be kept or read          UNAVAILABLE          503
├── ModelOutputInvalid            a model broke its contract            ABORTED              502
└── WeightsError                  this installation lacks what it needs FAILED_PRECONDITION  500
    ├── WeightsMissing            not pulled yet
    └── WeightsCorrupt            a digest does not match

Only what nobody foresaw is INTERNAL / 500. A backend translates its library's exceptions once, with ``from``;
``narrative.runtime.interceptors`` and the gateway's handler do the rest.
"""

from collections.abc import Mapping
from typing import Any

import grpc

from narrative.v1 import common_pb2

DETAIL_KEY = "narrative-error-bin"


class NarrativeError(Exception):
    """Base of all errors raised on purpose.

    The message is for the person who made the call: what was wrong and what is accepted.

    Args:
        where: an address or whatever else only the operator may see. It is in ``str``, which is for logs, and never in
            ``message``, which goes to callers.
    """

    grpc_code = grpc.StatusCode.INTERNAL
    http_status = 500
    title = "Internal error"

    def __init__(self, message: str, *, field: str = "", retry_after_s: float = 0.0, where: str = "") -> None:
        super().__init__(f"{message} ({where})" if where else message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidInput(NarrativeError):
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 422
    title = "Invalid input"


class InvalidParameter(InvalidInput):
    """One field is out of range or unknown; pass its name as ``field``."""

    title = "Invalid parameter"


class AudioUndecodable(InvalidInput):
    title = "Audio cannot be decoded"


class AudioRejected(InvalidInput):
    title = "Audio is outside the limits"


class NoSpeech(InvalidInput):
    title = "No speech found"


class ImageUndecodable(InvalidInput):
    title = "Picture cannot be decoded"


class DatasetInvalid(InvalidInput):
    """The message names the file or folder."""

    title = "Data set cannot be used"


class TrainingDiverged(InvalidInput):
    """The message names the settings to change."""

    title = "Training diverged"


class PayloadTooLarge(InvalidInput):
    grpc_code = grpc.StatusCode.OUT_OF_RANGE
    http_status = 413
    title = "Payload too large"


class Unauthenticated(NarrativeError):
    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    title = "Unauthenticated"


class NotFound(NarrativeError):
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404
    title = "Not found"


class ModelNotFound(NotFound):
    title = "Model not found"


class AdapterNotFound(NotFound):
    title = "Adapter not found"


class Conflict(NarrativeError):
    grpc_code = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409
    title = "Conflict"


class ResourceExhausted(NarrativeError):
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    title = "Resource exhausted"


class QueueFull(ResourceExhausted):
    """As many requests wait as may wait; ``retry_after_s`` says when to come back."""

    title = "Queue full"


class OutOfMemory(ResourceExhausted):
    title = "Out of memory"


class DiskFull(ResourceExhausted):
    title = "Disk full"


class Cancelled(NarrativeError):
    grpc_code = grpc.StatusCode.CANCELLED
    http_status = 499
    title = "Cancelled"


class DeadlineExceeded(NarrativeError):
    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    title = "Deadline exceeded"


class ServiceUnavailable(NarrativeError):
    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    title = "Service unavailable"


class StorageUnavailable(NarrativeError):
    """Apart from ServiceUnavailable, because what is done about it is: other services may go on meanwhile."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    title = "Storage unavailable"


class ModelOutputInvalid(NarrativeError):
    grpc_code = grpc.StatusCode.ABORTED
    http_status = 502
    title = "Model output invalid"


class WeightsError(NarrativeError):
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 500
    title = "Weights unusable"


class WeightsMissing(WeightsError):
    title = "Weights missing"


class WeightsCorrupt(WeightsError):
    title = "Weights corrupt"


def _subclasses(cls: type[NarrativeError]) -> dict[str, type[NarrativeError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _subclasses(child)
    return found


def named_error(name: str, message: str, *, field: str = "", retry_after_s: float = 0.0) -> NarrativeError:
    """The error of the class called ``name``, a plain NarrativeError where there is none."""
    cls = _subclasses(NarrativeError).get(name, NarrativeError)
    return cls(message, field=field, retry_after_s=retry_after_s)


def to_detail(error: NarrativeError) -> bytes:
    """Serialises an error for the trailing metadata of a call."""
    return common_pb2.ErrorDetail(
        type=type(error).__name__, message=error.message, field=error.field, retry_after_s=error.retry_after_s
    ).SerializeToString()


def from_rpc_error(error: grpc.RpcError, service: str) -> NarrativeError:
    """Gives back the error that the server raised, or the nearest one for a failed connection.

    Args:
        error: what a stub raised.
        service: name of the service called, for messages about the connection itself.
    """
    if not isinstance(error, grpc.Call) and not isinstance(error, grpc.aio.AioRpcError):
        return NarrativeError(f"{service}: {error}")
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            detail = common_pb2.ErrorDetail.FromString(value)
            return named_error(detail.type, detail.message, field=detail.field, retry_after_s=detail.retry_after_s)
    code, said = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceUnavailable(f"{service} cannot be reached", retry_after_s=1.0, where=said or "")
    by_code: dict[grpc.StatusCode, type[NarrativeError]] = {
        cls.grpc_code: cls for cls in NarrativeError.__subclasses__()
    }
    return by_code.get(code, NarrativeError)(f"{service}: {said or code.name}")


def to_problem(error: NarrativeError, instance: str = "") -> Mapping[str, Any]:
    """The RFC 9457 problem document of an error."""
    problem: dict[str, Any] = {
        "type": f"urn:narrative:error:{type(error).__name__}",
        "title": error.title,
        "status": error.http_status,
        "detail": error.message,
    }
    if instance:
        problem["instance"] = instance
    if error.field:
        problem["field"] = error.field
    if error.retry_after_s:
        problem["retry_after_s"] = error.retry_after_s
    return problem
