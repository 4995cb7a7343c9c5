"""Errors on their way through a Triton server, and what the server says itself."""

import pytest

from narrative.errors import (
    DeadlineExceeded,
    InvalidParameter,
    NarrativeError,
    OutOfMemory,
    QueueFull,
    ServiceUnavailable,
)
from narrative.runtime.triton_errors import ModelAway, ModelDied, from_triton, to_triton

WHERE, MODEL = "10.0.0.1:8001", "diffusion"


@pytest.mark.parametrize(
    "raised",
    [
        InvalidParameter('width is 33; "multiples" of 8 {are} accepted', field="width"),
        OutOfMemory("kein Platz für 4 Bilder", retry_after_s=5.0),
    ],
)
def test_an_error_of_the_model_comes_back_as_it_was_raised(raised: NarrativeError) -> None:
    # Triton puts the request's id before what a model says.
    error = from_triton(f"[request id: 7] {to_triton(raised)}", None, WHERE, MODEL)

    assert type(error) is type(raised)
    assert (error.message, error.field, error.retry_after_s) == (raised.message, raised.field, raised.retry_after_s)


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("Request for unknown model: 'diffusion' is not found", None, ModelAway),
        ("Request for unknown model: 'diffusion' has no available versions", None, ModelAway),
        ("[request id: <id_unknown>] Exceeds maximum queue size", None, QueueFull),
        ("Request timeout expired", None, DeadlineExceeded),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", DeadlineExceeded),
        ("Stub process 'diffusion_0_0' is not healthy.", None, ModelDied),
        (
            "failed to connect to all addresses; ipv4:10.0.0.1:8001: refused",
            "StatusCode.UNAVAILABLE",
            ServiceUnavailable,
        ),
        ("unexpected shape for input {REQUEST}", "StatusCode.INVALID_ARGUMENT", NarrativeError),
    ],
)
def test_what_triton_says_itself_becomes_the_nearest_error(
    text: str, status: str | None, expected: type[NarrativeError]
) -> None:
    error = from_triton(text, status, WHERE, MODEL)

    assert type(error) is expected
    assert "Triton" in error.message
    assert WHERE in str(error)
    assert WHERE not in error.message
