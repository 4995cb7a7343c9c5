"""A named fake: plays the image and sleep endpoints of vLLM-Omni as its documentation describes them.

It draws a square of one colour and refuses whatever the documentation does not have, so that a client that sends it is
found out. See https://docs.vllm.ai/projects/vllm-omni/en/stable/serving/image_generation_api/, the page of the edit API
beside it, and that of the sleep mode.
"""

import asyncio
import base64
import email.parser
import email.policy
import hashlib
import io
import json
import re
from typing import Any

import PIL.Image

MODEL = "Qwen/Qwen-Image"
GENERATION_FIELDS = {
    "prompt", "model", "n", "size", "response_format", "user", "negative_prompt", "num_inference_steps",
    "guidance_scale", "true_cfg_scale", "seed",
}  # fmt: skip
EDIT_FIELDS = GENERATION_FIELDS | {"image", "output_format", "output_compression", "background", "stream", "url"}


class FakeOmniServer:
    """One model, asleep or awake.

    Attributes:
        requests: fields of every request for a picture, in the order of their arrival.
        told: what it was told about sleep: path and JSON.
        can_sleep: false where it was started without --enable-sleep-mode.
        refusal: status and JSON to answer with instead of a picture.
        working: how many requests hang until ``go`` is set.
        hung_up: how many clients closed the connection while they waited.
        drawn_asleep: pictures asked for while it slept; there must be none.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.told: list[tuple[str, Any]] = []
        self.can_sleep = True
        self.refusal: tuple[int, Any] | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.asleep = False
        self.working = self.most_working = self.hung_up = self.drawn_asleep = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            size = re.search(r"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(size[1])) if size else b""
            status, answer = await self.answer(method, target, head, body, reader)
            data = json.dumps(answer).encode()
            kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status} X\r\n{kind}\r\n\r\n".encode() + data)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(
        self, method: str, target: str, head: str, body: bytes, reader: asyncio.StreamReader
    ) -> tuple[int, Any]:
        match method, target.partition("?")[0]:
            case "GET", "/v1/models":
                return 200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm"}]}
            case "POST", "/v1/omni/sleep" | "/v1/omni/wakeup":
                return self.sleep(target, json.loads(body))
            case "POST", "/v1/images/generations":
                return await self.draw(json.loads(body), GENERATION_FIELDS, reader)
            case "POST", "/v1/images/edits":
                return await self.draw(read_form(head, body), EDIT_FIELDS, reader)
        return 404, {"detail": "Not Found"}

    def sleep(self, target: str, asked: Any) -> tuple[int, Any]:
        self.told.append((target, asked))
        if not self.can_sleep:
            return 500, {"detail": "sleep mode is not enabled"}
        sleeps = target.endswith("sleep")
        if not sleeps and not self.asleep:
            return 200, {"status": "SKIPPED", "reason": "Target stages are not sleeping."}
        self.asleep = sleeps
        acks = [{"task_id": "1", "status": "SUCCESS", "stage_id": i, "rank": 0} for i in asked["stage_ids"]]
        return 200, {"status": "SUCCESS", "acks": acks}

    async def draw(self, asked: dict[str, Any], known: set[str], reader: asyncio.StreamReader) -> tuple[int, Any]:
        self.requests.append(asked)
        self.drawn_asleep += self.asleep
        if strange := set(asked) - known:
            return 422, {"detail": [{"loc": ["body", name], "msg": "not documented", "type": "x"} for name in strange]}
        if asked.get("model", MODEL) != MODEL:
            said = f"Model mismatch: request specifies '{asked['model']}' but server is running '{MODEL}'."
            return 400, {"detail": said}
        if self.refusal is not None:
            return self.refusal
        self.working += 1
        self.most_working = max(self.most_working, self.working)
        try:
            if not await self.may_go(reader):
                self.hung_up += 1
                return 499, None
        finally:
            self.working -= 1
        width, height = map(int, asked.get("size", "64x64").split("x"))
        colour = hashlib.sha256(f"{asked['prompt']}\0{asked['seed']}".encode()).digest()
        file = io.BytesIO()
        PIL.Image.new("RGB", (width, height), tuple(colour[:3])).save(file, "PNG")
        drawn = {"b64_json": base64.b64encode(file.getvalue()).decode(), "url": None, "revised_prompt": None}
        return 200, {"created": 1701234567, "data": [drawn]}

    async def may_go(self, reader: asyncio.StreamReader) -> bool:
        """Waits for ``go``; false where the client hangs up first."""
        gone, go = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(self.go.wait())
        done, waiting = await asyncio.wait([gone, go], return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        return go in done


def read_form(head: str, body: bytes) -> dict[str, Any]:
    """Fields of a multipart form; a file is its bytes."""
    kind = re.search(r"(?i)content-type: (.+)\r\n", head)
    assert kind is not None
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(f"Content-Type: {kind[1]}\r\n\r\n".encode() + body)
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        fields[name] = content if part.get_filename() else content.decode()
    return fields
