"""The residency service's refusals as errors of this project."""

from narrative.errors import InvalidParameter, NarrativeError, OutOfMemory, ResourceExhausted
from narrative.v1 import residency_pb2


def refusal(model: str, refused: residency_pb2.Refused, wait_s: float) -> NarrativeError:
    """The error that a caller gets whose request for a lease on ``model`` was refused after at most ``wait_s``."""
    match refused.reason:
        case residency_pb2.REFUSAL_REASON_TOO_LARGE:
            return OutOfMemory(
                f"{model} can never fit: the largest device lacks {refused.missing_bytes} bytes for it "
                f"({refused.missing_bytes / (1 << 30):.2f} GiB); choose a smaller model or pin less"
            )
        case residency_pb2.REFUSAL_REASON_NO_SUCH_DEVICE:
            return InvalidParameter(f"{model}: no such device", field="device")
        case _:
            return ResourceExhausted(f"{model} got no memory within {wait_s:.0f} s; try again", retry_after_s=5.0)
