"""Ports for servers that are about to start on this machine."""

import contextlib
import random
import socket

from narrative.errors import ServiceUnavailable

# Below those that systems give to connections (Linux from 32768 on, others from 49152): between the choice and the
# start, and while a server that died is started again, any connection could be given one of those.
_PORTS = range(20_000, 30_000)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address, all different, that nobody uses at this moment.

    Raises:
        ServiceUnavailable: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ServiceUnavailable(f"no {count} ports from {_PORTS.start} to {_PORTS.stop - 1} are free")


def free_port() -> int:
    """One such port; see ``free_ports``."""
    (port,) = free_ports(1)
    return port
