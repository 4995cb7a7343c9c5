"""Ports that servers will still find free when they start."""

import socket
from pathlib import Path

import pytest

import narrative.ports
from narrative.errors import ServiceUnavailable
from narrative.ports import free_ports

GIVEN_TO_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


@pytest.mark.skipif(not GIVEN_TO_CONNECTIONS.exists(), reason="Linux says here which ports connections are given")
def test_no_connection_can_be_given_one_meanwhile() -> None:
    first = int(GIVEN_TO_CONNECTIONS.read_text().split()[0])
    if first < 32_768:
        pytest.skip("connections are given more ports here than by default")
    assert max(free_ports(50)) < first


def test_one_that_is_taken_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(narrative.ports, "_PORTS", range(port, port + 1))
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        with pytest.raises(ServiceUnavailable, match="no 1 ports"):
            free_ports(1)

    assert free_ports(1) == [port]
