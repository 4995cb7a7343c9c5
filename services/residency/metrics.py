"""Prometheus metrics of the residency service."""

from prometheus_client import Counter, Gauge, Histogram

from narrative.runtime.metrics import SECONDS
from services.residency.state import Decision, Granted, Offload, Prefetch, Refused, Snapshot

BUDGET = Gauge("narrative_residency_budget_bytes", "Bytes that models may fill.", ["device"])
BOOKED = Gauge("narrative_residency_booked_bytes", "Bytes of the models there or on their way.", ["device"])
RESIDENT = Gauge("narrative_residency_resident_models", "Models on a device.", ["device"])
LEASES = Gauge("narrative_residency_leases", "Leases held.", ["device"])
WAITING = Gauge("narrative_residency_waiting_requests", "Requests that wait for a lease.")
GRANTS = Counter("narrative_residency_grants_total", "Leases granted.", ["model", "resident"])
REFUSALS = Counter("narrative_residency_refusals_total", "Requests that ended without a lease.", ["model", "reason"])
OFFLOADS = Counter("narrative_residency_offloads_total", "Models asked to leave.", ["model"])
PREFETCHES = Counter("narrative_residency_prefetches_total", "Models brought in ahead of time.", ["model"])
WAIT = Histogram("narrative_residency_wait_seconds", "Seconds from a request to its lease.", buckets=SECONDS)


def count(decision: Decision) -> None:
    """Counts one decision."""
    match decision:
        case Granted():
            GRANTS.labels(decision.model, str(decision.is_resident).lower()).inc()
            WAIT.observe(decision.waited_s)
        case Refused():
            REFUSALS.labels(decision.model, decision.reason).inc()
        case Offload():
            OFFLOADS.labels(decision.model).inc()
        case Prefetch():
            PREFETCHES.labels(decision.model).inc()


def report(snapshot: Snapshot) -> None:
    """Sets the gauges."""
    for device in snapshot.devices:
        there = [model for model in snapshot.models if model.device == device.id]
        BUDGET.labels(device.id).set(device.budget_bytes)
        BOOKED.labels(device.id).set(snapshot.booked_bytes(device.id))
        RESIDENT.labels(device.id).set(len(there))
        LEASES.labels(device.id).set(sum(len(model.leases) for model in there))
    WAITING.set(len(snapshot.waiting))
