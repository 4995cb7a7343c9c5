"""Settings of the translation service; the defaults are the embedded profile."""

from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator
from pydantic_settings import SettingsConfigDict

from narrative.settings import TritonSettings

EngineName = Literal["gloss", "ctranslate2", "llm", "triton", "fake"]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class TranslationSettings(TritonSettings):
    """Read from ``NARRATIVE_TRANSLATION__*``; lists are written as JSON."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_TRANSLATION__", extra="ignore")

    port: int = Field(50053, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    engines: list[EngineName] = Field(["gloss"], min_length=1, description="Engines to load, by name.")
    default_engine: str = Field("", description="Engine of requests that name none; empty for the first of `engines`.")
    # A gateway sends 64 at once (gateway/clients.py).
    max_texts: int = Field(256, ge=64, description="Most texts in one request; a gateway sends 64.")
    max_text_chars: int = Field(20_000, ge=1, description="Most characters in one text.")

    gloss_min_similarity: float = Field(
        0.72, gt=0, le=1, description="Least cosine at which a Russian word is linked to an English concept."
    )
    encoder_threads: int = Field(2, ge=1, description="Threads of the sentence encoder that the gloss engine uses.")

    ctranslate2_model: str = Field("opus-mt-ru-en", description="Marian or NLLB model: catalogue id, or a path.")
    ctranslate2_languages: list[LanguageCode] = Field(
        ["ru", "en"],
        min_length=1,
        description="ISO 639-1 codes; a Marian model reads the first and writes the last, NLLB translates between all.",
    )
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="Device of the CTranslate2 engine.")
    compute_type: str = Field("default", description="CTranslate2 compute type, for example int8 or float16.")
    threads: int = Field(2, ge=1, description="CPU threads of the CTranslate2 engine.")
    beam_size: int = Field(4, ge=1, le=16, description="Beams of the search; 1 is greedy.")
    max_batch_tokens: int = Field(2048, ge=16, description="Source tokens that are translated together.")

    llm_base_url: str = Field("http://127.0.0.1:8081/v1", description="OpenAI-compatible server of the LLM engine.")
    llm_model: str = Field("default", description="Name of the model on that server.")
    llm_api_key: str = Field("none", repr=False, description="Key of that server; any word where it asks for none.")
    llm_languages: list[LanguageCode] = Field(
        ["ru", "en"], min_length=1, description="ISO 639-1 codes of the languages that the LLM reads and writes."
    )
    llm_timeout_s: float = Field(60.0, gt=0, description="Longest one text may take on the LLM, in seconds.")
    llm_max_concurrency: int = Field(16, ge=1, description="Texts sent to the LLM at the same time.")
    llm_bytes: ByteSize = Field(
        ByteSize(0),
        description="Device memory that the LLM's vLLM gives up by sleeping while others need it, if there is a "
        "residency_target; bytes or a size like 8GiB. 0 where it never sleeps. One service alone may set this for a "
        "server: where prompt takes turns with the same one, translate by another engine.",
    )
    llm_device: str = Field("cuda:0", description="Device on which that vLLM runs, as the residency service names it.")
    llm_sleep_level: int = Field(
        1,
        ge=1,
        le=2,
        description="How deep that vLLM sleeps: 1 keeps its weights in host memory; 2 drops them, and reads them from "
        "their files when it wakes. LoRA adapters need 1.",
    )
    llm_restart_wait_s: float = Field(
        120.0, ge=0, description="Longest wait for the restart of that vLLM where it does not wake, in seconds."
    )

    triton_model: str = Field("translation", description="Name of the model in Triton's repository.")

    fake_seconds_per_text: float = Field(0.0, ge=0, description="Service time of the fake engine, per text.")

    @model_validator(mode="after")
    def _default_is_enabled(self) -> Self:
        if len(set(self.engines)) != len(self.engines):
            raise ValueError("engines: every engine may be named once")
        if self.default_engine and self.default_engine not in self.engines:
            raise ValueError(f"default_engine {self.default_engine!r} is not among engines: {', '.join(self.engines)}")
        return self
