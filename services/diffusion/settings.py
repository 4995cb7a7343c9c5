"""Settings of the diffusion service; the defaults are those of the embedded profile."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from narrative.settings import TritonSettings
from services.diffusion.omni_settings import OmniSettings


class DiffusionSettings(OmniSettings, TritonSettings):
    """Read from ``NARRATIVE_DIFFUSION__*``."""

    model_config = SettingsConfigDict(env_prefix="NARRATIVE_DIFFUSION__", extra="ignore")

    port: int = Field(50054, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    max_queue: int = Field(64, ge=0, description="Pictures that may wait; one more gets RESOURCE_EXHAUSTED.")
    engine: Literal["diffusers", "triton", "vllm-omni", "fake"] = Field(
        "diffusers",
        description="Engine; 'triton' runs 'diffusers' on a Triton server; 'vllm-omni' asks the server at omni_url; "
        "'fake' draws coloured squares after a fixed time, for tests.",
    )
    models: list[str] = Field(
        ["storybook"],
        min_length=1,
        description="Catalogue ids or paths of diffusers folders; the first of each task is its default.",
    )
    adapters_dir: Path | None = Field(
        None,
        description="Folder for copies of the LoRA adapters that are drawn with; data_dir/adapter-copies if unset.",
    )
    object_store_url: str = Field(
        "",
        description="Where published adapters and models are, the gateway's own folder or s3://bucket/prefix; "
        "data_dir/objects if unset.",
    )
    max_adapter_bytes: ByteSize = Field(ByteSize(2 << 30), description="Largest LoRA file that is imported.")
    max_loaded_adapters: int = Field(8, ge=1, description="Adapters kept in memory beside each model.")

    published_models_dir: Path | None = Field(
        None, description="Folder for copies of models that were trained here; data_dir/picture-model-copies if unset."
    )
    max_published_models: int = Field(2, ge=1, description="Models that were trained here kept in memory.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto takes CUDA if it works.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the weights; auto takes bfloat16 where the hardware multiplies it.",
    )
    num_threads: int = Field(0, ge=0, description="CPU threads of one computation; 0 for all cores.")
    deterministic: bool = Field(True, description="Use deterministic GPU kernels: a seed always gives its picture.")
    vae_tiling_px: int = Field(
        1 << 21,
        ge=1,
        description="Pictures of more pixels than this are decoded in tiles, batches of more one picture at a time.",
    )
    memory_format: Literal["channels_last", "contiguous"] = Field(
        "channels_last", description="Layout of the convolutions' weights; channels_last suits CPUs and tensor cores."
    )
    compile: bool = Field(
        False,
        description="Compile the denoiser: faster steps for minutes of warm-up. Needs a C++ compiler.",
    )
    compile_backend: str = Field(
        "inductor", description="Backend of torch.compile; 'eager' generates no code, to see what compiles again."
    )
    adapter_slot_rank: int = Field(
        32, ge=1, description="Rank that adapters may have together before a compiled denoiser is compiled again."
    )
    text_cache_bytes: ByteSize = Field(
        ByteSize(64 << 20), description="Host memory for text embeddings of earlier prompts, each model; 0 for none."
    )

    residency_host: Literal["memory", "disk"] = Field(
        "memory", description="Where weights are while they are off the device: pinned host memory, or a mapped file."
    )
    residency_working_bytes: ByteSize = Field(
        ByteSize(4 << 30),
        description="Device memory a model needs beside its weights while it works; bytes or a size like 1GiB.",
    )

    max_batch_size: int = Field(4, ge=1, le=64, description="Pictures drawn together.")
    batch_window_ms: float = Field(5.0, ge=0, le=1000, description="Milliseconds to wait for others to draw with.")
    pictures_per_call: int = Field(
        1,
        ge=0,
        le=64,
        description="Pictures in one call of a network, filled up with copies, so that the pixels do not depend on the "
        "neighbours; 0 for the whole batch as it is: fastest, but neighbours change the last digits.",
    )
    max_same_adapters: int = Field(
        4, ge=1, description="Batches in a row that may overtake older requests because their adapters are active."
    )

    min_size_px: int = Field(64, ge=8, multiple_of=8, description="Least width and height, pixels.")
    max_size_px: int = Field(2048, ge=8, multiple_of=8, description="Greatest width and height, pixels.")
    max_steps: int = Field(150, ge=1, le=500, description="Most denoising steps.")
    max_guidance_scale: float = Field(30.0, gt=0, description="Greatest guidance scale.")
    max_adapter_weight: float = Field(4.0, gt=0, description="Greatest absolute weight of an adapter.")
    max_adapters: int = Field(4, ge=0, description="Most adapters in one request.")
    max_prompt_chars: int = Field(4000, ge=1, description="Longest prompt, characters.")
    max_upload_bytes: int = Field(20 << 20, ge=1, description="Largest picture file to edit, bytes.")
    max_upload_px: int = Field(40_000_000, ge=1, description="Most pixels of a picture to edit.")

    triton_model: str = Field("diffusion", description="Name of the model in Triton's repository.")

    fake_batch_s: float = Field(0.05, ge=0, description="Seconds the fake engine takes for a batch.")

    @property
    def published_models_folder(self) -> Path:
        """The folder of copies of models, wherever it was set."""
        return self.published_models_dir or self.common.data_dir / "picture-model-copies"

    @property
    def adapters_folder(self) -> Path:
        """The folder of copies, wherever it was set."""
        return self.adapters_dir or self.common.data_dir / "adapter-copies"

    @property
    def objects_url(self) -> str:
        """The object store, wherever it was set."""
        return self.object_store_url or str(self.common.data_dir / "objects")
