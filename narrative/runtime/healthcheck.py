"""Asks a process whether it is well, for containers: ``python -m narrative.runtime.healthcheck ADDRESS``.

ADDRESS is ``grpc://HOST:PORT`` for a service, or an ``http://`` URL. Exits with 0 if the answer is SERVING, or 2xx.
"""

import sys

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def ask(address: str) -> str:
    """Returns what is wrong, or an empty string."""
    scheme, _, target = address.partition("://")
    if scheme == "http":
        try:
            response = httpx.get(address, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            return f"{address}: {error}"
        return "" if response.is_success else f"{address} answers {response.status_code}"
    if scheme != "grpc":
        return f"{address}: starts with neither grpc:// nor http://"
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}"
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else f"{address} is not ready"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m narrative.runtime.healthcheck grpc://HOST:PORT | http://HOST:PORT/PATH")
    if problem := ask(sys.argv[1]):
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
