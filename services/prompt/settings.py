"""Settings of the prompt service; the defaults are the embedded profile."""

from typing import Literal

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from narrative.settings import ServiceSettings

Language = Literal["en", "ru"]


class PromptSettings(ServiceSettings):
    """Read from ``NARRATIVE_PROMPT__*``."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_PROMPT__", extra="ignore")

    port: int = Field(50052, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    max_workers: int = Field(
        16, ge=1, description="Calls let in besides those of max_queue; llm_max_concurrency says how many ask at once."
    )
    max_queue: int = Field(64, ge=0, description="Further calls let in; one more gets RESOURCE_EXHAUSTED.")

    engine: Literal["openai", "fake"] = Field(
        "openai", description="openai: any OpenAI-compatible server; fake: fixed answers, for load tests only."
    )
    llm_url: str = Field("http://127.0.0.1:8081/v1", description="Base URL of the OpenAI-compatible server.")
    llm_model: str = Field("smollm2-135m", description="Name of the model as that server knows it.")
    llm_api_key: str = Field("", repr=False, description="Bearer token for the server; empty where it asks for none.")
    llm_timeout_s: float = Field(60.0, gt=0, description="Longest one LLM call may take, in seconds.")
    llm_max_concurrency: int = Field(
        2, ge=1, description="LLM calls under way at the same time; the slots of llama.cpp, 32 and more for vLLM."
    )
    llm_max_waiting: int = Field(
        32,
        ge=0,
        description="Requests that may wait at the LLM server, by vLLM's metrics; with more, calls get "
        "RESOURCE_EXHAUSTED. Servers without these metrics are not watched.",
    )
    llm_max_kv_cache: float = Field(
        0.95, gt=0, le=1, description="Share of vLLM's KV cache that may be in use before calls get RESOURCE_EXHAUSTED."
    )
    llm_seed: int = Field(0, ge=0, description="Seed sent along; with temperature 0 it only breaks ties.")
    llm_max_tokens: int = Field(256, ge=32, description="Longest answer, in tokens.")
    llm_licence: str = Field("Apache-2.0", description="SPDX identifier of the licence of the model's weights.")
    startup_wait_s: float = Field(
        120.0,
        ge=0,
        description="Seconds to wait for the LLM server at start, and for its restart where it does not wake; "
        "0 starts without asking for it.",
    )

    residency_target: str = Field("", description="gRPC name of the residency service; empty where there is none.")
    residency_bytes: ByteSize = Field(
        ByteSize(0),
        description="Device memory that vLLM, started with --enable-sleep-mode, gives up while others need it; bytes "
        "or a size like 8GiB. 0 leaves it awake.",
    )
    residency_device: str = Field("cuda:0", description="Device on which vLLM runs, as the residency service names it.")
    residency_sleep_level: int = Field(
        1,
        ge=1,
        le=2,
        description="How deep vLLM sleeps: 1 keeps its weights in host memory; 2 drops them, and reads them from their "
        "files when it wakes. LoRA adapters need 1.",
    )
    residency_wait_s: float = Field(300.0, gt=0, description="Longest wait for that memory, in seconds.")
    residency_priority: int = Field(
        0,
        ge=-10,
        le=10,
        description="Head start of its requests for memory, each point worth NARRATIVE_RESIDENCY__PRIORITY_S.",
    )

    languages: list[Language] = Field(default=["en"], min_length=1, description="Languages that the LLM reads.")
    wording: Literal["chosen", "free"] = Field(
        "chosen",
        description="chosen: the LLM picks scene and details among phrases of the text, for models that invent; "
        "free: it writes them, and what the text does not bear out is refused. Production models: free.",
    )
    min_grounded: float = Field(
        0.6, ge=0, le=1, description="Share of a freely written scene's content words that the text must hold."
    )
    normalize_with_llm: bool = Field(
        False, description="Let the LLM mend typing errors; off, rules mend punctuation, spaces and capitals only."
    )

    max_lines: int = Field(
        20_000, ge=1, description="Most lines in one call; four hours of one speaker's lines of a second are 14,400."
    )
    max_line_chars: int = Field(4000, ge=1, description="Longest line, in characters.")
    max_text_chars: int = Field(
        600,
        ge=200,
        description="Characters of a speaker's text shown to the LLM, the lines with most to see before others; "
        "short by default, because reading is what a CPU is slow at.",
    )
    fake_service_time_s: float = Field(0.05, ge=0, description="Seconds the fake engine takes for one speaker.")
