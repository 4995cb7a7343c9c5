"""The error hierarchy and its two mappings."""

import grpc
import pytest

from narrative import errors
from narrative.errors import NarrativeError, QueueFull, ServiceUnavailable, from_rpc_error, to_detail, to_problem


def all_errors() -> list[type[NarrativeError]]:
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, NarrativeError)]


def rpc_error(code: grpc.StatusCode, message: str, detail: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*([(errors.DETAIL_KEY, detail)] if detail is not None else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message)


@pytest.mark.parametrize("cls", all_errors())
def test_every_error_survives_the_wire(cls: type[NarrativeError]) -> None:
    sent = cls("what was wrong", field="width", retry_after_s=2.5)

    received = from_rpc_error(rpc_error(cls.grpc_code, "ignored", to_detail(sent)), "diffusion")

    assert type(received) is cls
    assert (received.message, received.field, received.retry_after_s) == ("what was wrong", "width", 2.5)


@pytest.mark.parametrize("cls", [cls for cls in all_errors() if cls is not NarrativeError])
def test_only_the_unforeseen_is_internal(cls: type[NarrativeError]) -> None:
    assert cls.grpc_code is not grpc.StatusCode.INTERNAL


def test_a_lost_connection_names_the_service() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused"), "diffusion")

    assert isinstance(error, ServiceUnavailable)
    assert "diffusion" in error.message
    assert error.retry_after_s > 0


def test_where_a_service_was_looked_for_is_for_logs_only() -> None:
    said = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.7:50054: Connection refused (111)"

    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, said), "diffusion")

    assert to_problem(error)["detail"] == "diffusion cannot be reached"
    assert "10.0.0.7:50054" in str(error)
    assert b"10.0.0.7" not in to_detail(error)


def test_problem_document_has_what_rfc_9457_names() -> None:
    problem = to_problem(QueueFull("32 requests wait already", retry_after_s=3.0), "/v1/narratives")

    assert problem == {
        "type": "urn:narrative:error:QueueFull",
        "title": "Queue full",
        "status": 429,
        "detail": "32 requests wait already",
        "instance": "/v1/narratives",
        "retry_after_s": 3.0,
    }


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = {word for line in (errors.__doc__ or "").splitlines() for word in line.split() if "──" not in word}

    missing = [cls.__name__ for cls in all_errors() if cls.__name__ not in drawn]

    assert missing == []
