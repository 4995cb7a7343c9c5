"""A REST client of the gateway: what the commands speak."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import connect_sse

from narrative.cli.running import running_ensemble, state_file
from narrative.errors import InvalidParameter, NarrativeError, ServiceUnavailable
from narrative.settings import CommonSettings, read_settings

DEFAULT_URL = "http://127.0.0.1:8080"
RECONNECTS = 12


class ApiError(NarrativeError):
    """The gateway answered with a problem document."""

    title = "Refused by the gateway"


@dataclass(frozen=True)
class Event:
    """One server-sent event of a narrative."""

    type: str
    data: dict[str, Any]


class Client:
    """Speaks to one gateway.

    Args:
        url: base URL of the gateway.
        api_key: sent as a bearer token; empty for none.

    Raises:
        InvalidParameter: no URL, or no key.
    """

    def __init__(self, url: str, api_key: str = "") -> None:
        if not (api_key.isascii() and api_key.isprintable()):
            raise InvalidParameter("the API key has characters that no key has; printable ASCII is accepted")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            # No read timeout: a synchronous transcription of a long recording answers when it is done.
            self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(10.0, read=None))
        except httpx.InvalidURL as error:
            raise InvalidParameter(f"{url!r} is no URL: {error}", field="url") from error
        self.url = url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Sends a request.

        Raises:
            ApiError: the gateway refused; the message is the problem's detail.
            ServiceUnavailable: nobody answers at the URL.
            InvalidParameter: something in it is no text.
        """
        with self._errors():
            response = self._http.request(method, path, **kwargs)
        if not response.is_success:
            raise ApiError(_detail(response))
        return response

    def download(self, path: str, target: Path) -> None:
        """Writes what is answered to a file, in pieces; the file is whole in the end, or as it was before.

        Raises:
            NarrativeError: as ``request``.
        """
        part = target.with_name(f"{target.name}.part")
        try:
            with self._errors(), self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    raise ApiError(_detail(response))
                with part.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def document(self, method: str, path: str, field: str, **kwargs: Any) -> dict[str, Any]:
        """Sends a request and returns the JSON object that is answered.

        Args:
            field: one that every such answer of a gateway has.

        Raises:
            ServiceUnavailable: what answers at the URL is no gateway.
            NarrativeError: as ``request``.
        """
        response = self.request(method, path, **kwargs)
        try:
            answer: dict[str, Any] = response.json()
            answer[field]
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(f"what answers at {self.url} is no gateway; name one with --url") from error
        return answer

    def create_narrative(self, audio: Path, options: dict[str, Any], idempotency_key: str = "") -> dict[str, Any]:
        """Uploads a recording, streamed from disk, and returns the narrative's first state."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        with audio.open("rb") as file:
            return self.document(
                "POST",
                "/v1/narratives",
                "id",
                files={"file": (audio.name, file)},
                data={"options": json.dumps(options)},
                headers=headers,
            )

    def events(self, narrative_id: str) -> Iterator[Event]:
        """Events of a narrative until it has finished; a lost connection is taken up where it broke."""
        last_id = ""
        failures = 0
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with connect_sse(self._http, "GET", f"/v1/narratives/{narrative_id}/events", headers=headers) as source:
                    if source.response.is_error:
                        source.response.read()
                        raise ApiError(_detail(source.response))
                    for message in source.iter_sse():
                        failures = 0
                        last_id = message.id or last_id
                        yield Event(message.event, message.json() if message.data else {})
                        if message.event == "finished":
                            return
            except httpx.HTTPError as error:
                failures += 1
                if failures > RECONNECTS:
                    raise ServiceUnavailable(f"lost the gateway at {self.url}: {error}") from error
                # A gateway that was restarted is back within seconds.
                time.sleep(min(5.0, 0.2 * 2**failures))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServiceUnavailable(
                f"no gateway answers at {self.url}; start the ensemble with `narrate up` or name another with --url"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"{self.url}: {error}") from error
        except UnicodeEncodeError as error:
            raise InvalidParameter(f"{error.object!r} is no text in UTF-8") from error


def open_client(url: str | None, api_key: str) -> Client:
    """A client of ``url``, else of the ensemble that runs on this machine, else of the default address."""
    if not url:
        state = running_ensemble(state_file(read_settings(CommonSettings).data_dir))
        url = str(state["url"]) if state else DEFAULT_URL
    return Client(url, api_key)


def _detail(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
