"""The few questions that trainings as Jobs ask of the Kubernetes API, over plain HTTP.

The official client brings tens of megabytes for some thousand kinds of objects; these are five calls on two.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from narrative.errors import NarrativeError, ServiceUnavailable

Object = dict[str, Any]
_TIMEOUT = httpx.Timeout(10.0, read=30.0)
# A follower of a log hears nothing while a step takes long.
_LOG_TIMEOUT = httpx.Timeout(10.0, read=None)


class KubernetesApi:
    """Jobs and their pods in one namespace.

    Every method raises ServiceUnavailable where the API does not answer, and NarrativeError where it refuses.

    Args:
        url: of the API, for example https://kubernetes.default.svc.
        credentials: folder with ``token``, ``ca.crt`` and ``namespace``, as Kubernetes mounts it into pods.
    """

    def __init__(self, url: str, credentials: Path) -> None:
        self._credentials = credentials
        ca_file = credentials / "ca.crt"
        verify = ssl.create_default_context(cafile=str(ca_file)) if url.startswith("https://") else True
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT, verify=verify)
        self._namespace = (credentials / "namespace").read_text(encoding="utf-8").strip()

    def close(self) -> None:
        self._http.close()

    def template(self, name: str) -> Object:
        """What Jobs are made from: the template in a suspended CronJob.

        Raises:
            NarrativeError: there is none of that name.
        """
        found = self._call("GET", f"{self._batch}/cronjobs/{name}")
        if found is None:
            raise NarrativeError(f"the cluster has no CronJob {name!r}, which trainings are made from")
        template: Object = found["spec"]["jobTemplate"]
        return template

    def job(self, name: str) -> Object | None:
        """A Job; None where there is none."""
        return self._call("GET", f"{self._batch}/jobs/{name}")

    def create_job(self, job: Object) -> bool:
        """Creates a Job; False where there is one of its name."""
        response = self._send("POST", f"{self._batch}/jobs", json=job)
        if response.status_code == httpx.codes.CONFLICT:
            return False
        _refuse_errors(response)
        return True

    def delete_job(self, name: str) -> None:
        """Deletes a Job and its pods, which get their time to end; does nothing where there is none."""
        options = {"propagationPolicy": "Foreground"}
        self._call("DELETE", f"{self._batch}/jobs/{name}", json=options)

    def pods(self, job: str) -> list[Object]:
        """The pods of a Job, the newest first."""
        listed = self._call("GET", self._pods, params={"labelSelector": f"batch.kubernetes.io/job-name={job}"})
        found: list[Object] = (listed or {}).get("items", [])
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def follow(self, pod: str) -> Iterator[str]:
        """The lines a pod's container writes, from its first, until it ends or the connection does.

        Raises:
            ServiceUnavailable: nothing can be read yet, or any more.
        """
        try:
            with self._http.stream(
                "GET",
                f"{self._pods}/{pod}/log",
                params={"follow": "true"},
                headers=self._headers(),
                timeout=_LOG_TIMEOUT,
            ) as response:
                if response.is_error:
                    response.read()
                    raise ServiceUnavailable(f"the log of {pod} cannot be read: {_message(response)}")
                yield from response.iter_lines()
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"the log of {pod} broke off", where=str(error)) from error

    @property
    def _batch(self) -> str:
        return f"/apis/batch/v1/namespaces/{self._namespace}"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"

    def _call(self, method: str, path: str, **kwargs: Any) -> Object | None:
        response = self._send(method, path, **kwargs)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        _refuse_errors(response)
        found: Object = response.json()
        return found

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, headers=self._headers(), **kwargs)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                "the Kubernetes API does not answer", retry_after_s=5.0, where=str(error)
            ) from error

    def _headers(self) -> dict[str, str]:
        # Read every time: Kubernetes replaces it within the hour.
        return {"Authorization": f"Bearer {(self._credentials / 'token').read_text(encoding='utf-8').strip()}"}


def _refuse_errors(response: httpx.Response) -> None:
    if response.status_code in (httpx.codes.TOO_MANY_REQUESTS, *range(500, 600)):
        raise ServiceUnavailable(f"the Kubernetes API is not able to: {_message(response)}", retry_after_s=5.0)
    if response.is_error:
        raise NarrativeError(f"the Kubernetes API refuses: {_message(response)}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
