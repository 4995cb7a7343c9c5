"""Settings of the vLLM-Omni engine, apart because no other engine reads them."""

from typing import Literal

from pydantic import ByteSize, Field

from narrative.settings import LeasingSettings


class OmniSettings(LeasingSettings):
    """The ``omni_*`` fields of ``DiffusionSettings``."""

    omni_url: str = Field("http://127.0.0.1:8091/v1", description="Base URL of the vLLM-Omni server's API.")
    omni_model: str = Field("", description="Model as that server knows it; empty for the one it serves.")
    omni_task: Literal["text-to-image", "image-editing"] = Field(
        "text-to-image", description="What that model is for; a server has one model."
    )
    omni_guidance: Literal["guidance_scale", "true_cfg_scale"] = Field(
        "guidance_scale",
        description="Field of the server's API that carries the guidance scale: true_cfg_scale for Qwen-Image.",
    )
    omni_licence: str = Field("", description="SPDX identifier of the licence of that model's weights.")
    omni_api_key: str = Field("", repr=False, description="Bearer token; empty where the server asks for none.")
    omni_timeout_s: float = Field(600.0, gt=0, description="Longest one picture may take on the server, in seconds.")
    omni_startup_wait_s: float = Field(
        900.0, ge=0, description="Seconds to wait for the server at start, and for its restart where it does not wake."
    )
    omni_max_concurrency: int = Field(4, ge=1, description="Pictures that the server draws at the same time.")
    omni_bytes: ByteSize = Field(
        ByteSize(0),
        description="Device memory that the server, started with --enable-sleep-mode, gives up while others need it; "
        "bytes or a size like 40GiB. 0 leaves it awake.",
    )
    omni_device: str = Field("cuda:0", description="Device on which it runs, as the residency service names it.")
