"""Prometheus metrics, the same in every process."""

from prometheus_client import Counter, Gauge, Histogram

# Up to ten minutes: a long recording or a large picture is normal work here, not an outlier.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter("narrative_requests_total", "Calls ended, by result.", ["service", "method", "code"])
LATENCY = Histogram(
    "narrative_request_duration_seconds",
    "Seconds from the start of a call to its end.",
    ["service", "method"],
    buckets=SECONDS,
)
QUEUE_DEPTH = Gauge("narrative_queue_depth", "Calls that wait for a worker.", ["service"])
RUNNING = Gauge("narrative_running", "Calls that a worker is busy with.", ["service"])
BATCH_SIZE = Histogram(
    "narrative_batch_size", "Requests worked on together.", ["service"], buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32)
)
MODEL_LOAD = Gauge("narrative_model_load_seconds", "Seconds the last loading of the models took.", ["service"])
UNFINISHED = Gauge("narrative_unfinished", "Narratives that run or wait in this gateway.")
