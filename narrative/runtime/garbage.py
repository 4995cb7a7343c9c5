"""When Python looks for garbage that only its collector finds: objects that refer to each other."""

import gc

# New objects are searched as Python does it; those that outlive that only after a thousand such searches. With 100
# narratives in flight these are many: to go through them takes 5 to 90 ms, in which nothing else is done, and finds
# next to nothing. By default it happens every second.
_THRESHOLDS = (700, 1000, 10)


def search_rarely() -> None:
    """Keeps the collector from holding up requests; for a process that has become ready: what it has so far stays."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
