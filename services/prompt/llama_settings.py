"""Settings of the embedded LLM server."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from narrative.settings import ProcessSettings


class LlamaSettings(ProcessSettings):
    """Read from ``NARRATIVE_LLAMA__*``."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_LLAMA__", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8081, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    model: str = Field("smollm2-135m", description="Id in the catalogue, or path of a GGUF file.")
    threads: int = Field(
        1,
        ge=1,
        description="Threads that compute together; with more than there are idle cores each waits for the others.",
    )
    n_parallel: int = Field(2, ge=1, description="Requests worked on at the same time, each in a slot of its own.")
    context_size: int = Field(1280, ge=512, description="Longest prompt and answer together, in tokens, of one slot.")
    prompt_cache_mib: int = Field(128, ge=0, description="Memory for prompts to be used again, in MiB.")
    repeat_penalty: float = Field(
        1.0,
        ge=1,
        le=2,
        description="Default penalty on repeated tokens; 1 where the schema already rules repetition out.",
    )
