"""What goes wrong on a Triton server, as the errors of this project, and those as text that Triton hands on."""

from google.protobuf import json_format

from narrative.errors import (
    DeadlineExceeded,
    NarrativeError,
    QueueFull,
    ServiceUnavailable,
    named_error,
    to_detail,
)
from narrative.v1 import common_pb2


class ModelAway(ServiceUnavailable):
    """The server does not have the model loaded; it took nothing of the request."""


class ModelDied(ServiceUnavailable):
    """The process of the model is gone, killed where memory ran out for example; Triton itself starts no other one."""


def to_triton(error: NarrativeError) -> str:
    """An error as Triton's text: ``ErrorDetail`` as JSON, so that other clients of the server can read it too."""
    detail = common_pb2.ErrorDetail.FromString(to_detail(error))
    return json_format.MessageToJson(detail, preserving_proto_field_name=True, indent=None, ensure_ascii=False)


def from_triton(text: str, status: str | None, where: str, model: str) -> NarrativeError:
    """The error that a model raised, or the nearest one for what Triton says itself.

    Args:
        text: what Triton says.
        status: gRPC status as tritonclient writes it; None where the call itself went well.
        where: address of the server, for logs.
    """
    if (start := text.find("{")) >= 0:
        try:
            detail = json_format.Parse(text[start:], common_pb2.ErrorDetail())
        except json_format.ParseError:
            pass
        else:
            return named_error(detail.type, detail.message, field=detail.field, retry_after_s=detail.retry_after_s)
    if "unknown model" in text:
        return ModelAway(f"Triton does not have {model} loaded: {text}", retry_after_s=2.0, where=where)
    if "maximum queue size" in text:
        return QueueFull(
            f"as many requests for {model} wait at Triton as may; try again later", retry_after_s=2.0, where=where
        )
    if "timeout expired" in text or status == "StatusCode.DEADLINE_EXCEEDED":
        return DeadlineExceeded("Triton did not answer in time", where=where)
    if "tub process" in text:
        return ModelDied(f"Triton's process of {model} has died: {text}", retry_after_s=5.0, where=where)
    if status == "StatusCode.UNAVAILABLE":
        return ServiceUnavailable("Triton cannot be reached", retry_after_s=1.0, where=f"{where}: {text}")
    return NarrativeError(f"Triton: {text}", where=where)
