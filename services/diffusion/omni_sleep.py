"""A vLLM-Omni server's memory under residency, by the endpoints that it has for that.

It must have been started with ``--enable-sleep-mode``, and be out of reach for strangers.
"""

import httpx

from narrative.errors import ServiceUnavailable
from narrative.runtime.vllm import server_root

# A picture model is one stage. Level 1 keeps its weights in host memory; from level 2 this server cannot wake.
_STAGES = [0]
_LEVEL = 1


class OmniServer:
    """A ``Movable``: loading wakes the server, offloading puts it to sleep.

    Args:
        url: base URL of its OpenAI-compatible API.
        api_key: bearer token; empty where it asks for none.
        timeout_s: longest that falling asleep or waking may take.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._root = server_root(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s

    def load(self, device: str) -> None:
        """Wakes the server.

        Raises:
            ServiceUnavailable: it does not wake.
        """
        self._tell("wakeup", {"stage_ids": _STAGES})

    def offload(self) -> None:
        """Puts the server to sleep.

        Raises:
            ServiceUnavailable: it does not fall asleep, or has no sleep mode.
        """
        self._tell("sleep", {"stage_ids": _STAGES, "level": _LEVEL})

    def _tell(self, what: str, body: dict[str, object]) -> None:
        url = f"{self._root}/v1/omni/{what}"
        try:
            answer = (
                httpx.post(url, json=body, headers=self._headers, timeout=self._timeout_s).raise_for_status().json()
            )
            # Of one that was awake already: "SKIPPED".
            failed = [ack for ack in answer.get("acks", ()) if ack["status"] != "SUCCESS"]
            if answer["status"] not in ("SUCCESS", "SKIPPED") or failed:
                raise ServiceUnavailable(f"the vLLM-Omni server failed at {what}: {answer}"[:300], where=url)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceUnavailable(
                f"the vLLM-Omni server failed at {what}; start it with --enable-sleep-mode, or set "
                "NARRATIVE_DIFFUSION__OMNI_BYTES to 0",
                where=f"{url}: {str(error).partition(chr(10))[0]}",
            ) from error
