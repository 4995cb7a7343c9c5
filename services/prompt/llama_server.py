"""The embedded LLM server, llama.cpp behind its own OpenAI-compatible HTTP: ``python -m services.prompt.llama_server``.

Answers ``/health``, ``/v1/models`` and ``/v1/chat/completions``. Requests that come together are decoded together
(continuous batching), and the instructions and examples that all of them begin with are computed once a slot.
"""

import signal
import threading
from pathlib import Path

import structlog
import xllamacpp

from narrative.catalogue import Catalogue
from narrative.errors import WeightsMissing
from narrative.runtime.logging import configure_logging
from narrative.settings import read_settings
from services.prompt.llama_settings import LlamaSettings

log = structlog.get_logger()


def weights(settings: LlamaSettings) -> Path:
    """The GGUF file of the model.

    Raises:
        NarrativeError: as ``Catalogue.resolve``; ``WeightsMissing`` also for a folder without a GGUF file.
    """
    path = Catalogue().resolve(settings.model, settings.common.models_dir)
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if not files:
        raise WeightsMissing(f"{path} holds no GGUF file")
    return files[0]


def parameters(settings: LlamaSettings) -> xllamacpp.CommonParams:
    """Settings as llama.cpp takes them."""
    params = xllamacpp.CommonParams()
    params.model.path = str(weights(settings))
    params.model_alias = {settings.model}
    params.hostnames = [settings.host]
    params.port = settings.port
    params.n_parallel = settings.n_parallel
    params.n_ctx = settings.context_size * settings.n_parallel
    params.cache_ram_mib = settings.prompt_cache_mib
    params.sampling.penalty_repeat = settings.repeat_penalty
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = settings.threads
        # Threads that spin while they wait would take the cores from the rest of the ensemble.
        cpu.poll = 0
    # Whatever else is decoded at the same time, and whatever was cached, the same request gets the same answer bit for
    # bit: the fused attention kernel and a KV cache in half precision round differently for every size of batch.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.ui = False
    params.verbosity = 1
    return params


def main() -> None:
    settings = read_settings(LlamaSettings)
    configure_logging(settings.common, "llama")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = xllamacpp.Server(parameters(settings))
    log.info("ready", url=server.listening_address, model=settings.model, slots=settings.n_parallel)
    stopping.wait()
    log.info("stopping")


if __name__ == "__main__":
    main()
