"""The image API of a vLLM-Omni server, as its documentation has it; OpenAI's, with fields of its own."""

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx

from narrative.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelOutputInvalid,
    NarrativeError,
    OutOfMemory,
    ResourceExhausted,
    ServiceUnavailable,
)
from services.diffusion.omni_request import OmniPicture
from services.diffusion.settings import DiffusionSettings

_ASK_AGAIN_S = 0.5


class OmniClient:
    """Asks the server; its coroutines belong to one event loop. A call that is cancelled closes its connection, and
    the server stops drawing.
    """

    def __init__(self, settings: DiffusionSettings) -> None:
        self._settings = settings
        headers = {"Authorization": f"Bearer {settings.omni_api_key}"} if settings.omni_api_key else {}
        self._http = httpx.AsyncClient(base_url=settings.omni_url, headers=headers, timeout=settings.omni_timeout_s)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def model(self) -> str:
        """Waits for the server and gives the model's name.

        Raises:
            ServiceUnavailable: it did not list its models within ``omni_startup_wait_s``, or serves another one.
        """
        settings = self._settings
        until = time.monotonic() + settings.omni_startup_wait_s
        while True:
            try:
                with self._translated_errors():
                    listed = (await self._http.get("/models")).raise_for_status().json()["data"]
                    names = [str(model["id"]) for model in listed]
                break
            except NarrativeError as error:
                if time.monotonic() > until:
                    raise ServiceUnavailable(
                        f"the vLLM-Omni server did not become ready within {settings.omni_startup_wait_s:g} s: "
                        f"{error.message}",
                        where=settings.omni_url,
                    ) from error
            await asyncio.sleep(_ASK_AGAIN_S)
        wanted = settings.omni_model or (names[0] if names else "")
        if wanted not in names or not wanted:
            raise ServiceUnavailable(
                f"the vLLM-Omni server serves {', '.join(names) or 'no model'}, not {wanted!r}; "
                "set NARRATIVE_DIFFUSION__OMNI_MODEL",
                where=settings.omni_url,
            )
        return wanted

    async def draw(self, picture: OmniPicture) -> bytes:
        """Asks for one picture and gives its file, whatever its format.

        Raises:
            InvalidInput: the server refuses the request.
            OutOfMemory: its device has no room for the picture.
            ResourceExhausted: it turns requests away.
            ServiceUnavailable: it is down or fails.
            DeadlineExceeded: it took longer than ``omni_timeout_s``.
            ModelOutputInvalid: its answer is none.
        """
        fields: dict[str, Any] = {**picture.fields, "response_format": "b64_json"}
        with self._translated_errors():
            if picture.source is None:
                answer = await self._http.post("/images/generations", json=fields)
            else:
                file = {"image": ("image.png", picture.source, "image/png")}
                form = {name: str(value) for name, value in fields.items()}
                answer = await self._http.post("/images/edits", data={**form, "output_format": "png"}, files=file)
            (drawn,) = answer.raise_for_status().json()["data"]
            return base64.b64decode(drawn["b64_json"], validate=True)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        url = self._settings.omni_url
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response, url) from error
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(
                f"the vLLM-Omni server did not answer within {self._settings.omni_timeout_s:g} s", where=url
            ) from error
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                "the vLLM-Omni server cannot be reached", retry_after_s=2.0, where=f"{url}: {error}"
            ) from error
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise ModelOutputInvalid(
                f"the vLLM-Omni server does not speak vLLM-Omni's image API: {error}", where=url
            ) from error


def _refusal(response: httpx.Response, url: str) -> NarrativeError:
    said, status = _said(response), response.status_code
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return ResourceExhausted(f"the vLLM-Omni server is busy: {said}", retry_after_s=2.0, where=url)
    # One server has one model; that it is another than the one at start is nothing that a caller could mend.
    if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY) and not said.startswith("Model mismatch"):
        return InvalidInput(f"vLLM-Omni refuses the request: {said}")
    if status >= httpx.codes.INTERNAL_SERVER_ERROR and "out of memory" in said.lower():
        return OutOfMemory("the device of the vLLM-Omni server has no room for a picture of this size")
    return ServiceUnavailable(f"the vLLM-Omni server answered {status}: {said}", retry_after_s=2.0, where=url)


def _said(response: httpx.Response) -> str:
    """What went wrong, in the server's words: FastAPI's ``detail``, vLLM's ``error.message``, or the text itself."""
    try:
        body = response.json()
        said = body["detail"] if "detail" in body else body["error"]["message"]
        if isinstance(said, list):
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in said)
    except (ValueError, KeyError, TypeError):
        said = response.text
    return " ".join(str(said).split())[:300]
