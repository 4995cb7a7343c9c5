"""Memory that runs out when a test wants it to."""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Shortage:
    """Calls that fail from here on."""

    failures: int = 0


def shortage(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Shortage:
    """Has calls of ``owner.name`` fail as CTranslate2 does without memory, as many as it is told to."""
    call, short = getattr(owner, name), Shortage()

    def called(*args: Any, **kwargs: Any) -> Any:
        if short.failures:
            short.failures -= 1
            raise RuntimeError("CUDA failed with error out of memory")
        return call(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)
    return short
