"""CTranslate2 models: Marian (OPUS-MT) and NLLB, told apart by their own files.

A model folder is what ``ct2-transformers-converter --copy_files`` makes, with the tokenizer beside it:

- Marian: ``model.bin``, ``source.spm``, ``target.spm``. One direction; the source ends with ``</s>``.
- NLLB: ``model.bin`` and ``tokenizer.json`` (or ``sentencepiece.bpe.model``). The source is
  ``<language> text </s>`` and the output is forced to begin with the target's FLORES-200 code.
"""

import gc
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter, OutOfMemory, WeightsCorrupt, WeightsMissing
from narrative.runtime.device_memory import is_out_of_memory, trying_twice
from narrative.runtime.residency import ResidencyClient
from services.translation.engine import EngineInfo
from services.translation.flores import FLORES
from services.translation.settings import TranslationSettings
from services.translation.splitting import join_pieces, split_text
from services.translation.translator import Translator

log = structlog.get_logger()
END = "</s>"
# Marian and NLLB were trained on sentences and cut what is longer; their position tables may end at 512.
MAX_PIECE_TOKENS = 200
MAX_OUTPUT_TOKENS = 500


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[str]: ...

    def decode(self, tokens: list[str]) -> str: ...


class CTranslate2Engine:
    """Sentence by sentence, in batches of a bounded number of tokens.

    Args:
        settings: model, languages, device, beams.
        catalogue: where model ids are looked up.
    """

    def __init__(self, settings: TranslationSettings, catalogue: Catalogue | None = None) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._translator: Translator | None = None
        self._residency: ResidencyClient | None = None
        self._model = ""
        self._source: Tokenizer | None = None
        self._target: Tokenizer | None = None
        self._kind: Literal["marian", "nllb"] = "marian"
        self._licence = ""
        self._lock = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        languages = tuple(self._settings.ctranslate2_languages)
        if self._kind == "nllb":
            return EngineInfo("ctranslate2", languages, languages, self._licence)
        return EngineInfo("ctranslate2", languages[:1], languages[-1:], self._licence)

    def load(self) -> None:
        """Reads model and tokenizer.

        Raises:
            WeightsMissing: a file of the model is not there.
            WeightsCorrupt: CTranslate2 or the tokenizer cannot read a file.
            InvalidParameter: a language of the settings has no FLORES code, which an NLLB model needs.
            OutOfMemory, ResourceExhausted: the device has no room for it.
        """
        settings = self._settings
        catalogue = self._catalogue or Catalogue()
        folder = catalogue.resolve(settings.ctranslate2_model, settings.common.models_dir)
        self._licence = next((entry.licence for entry in catalogue if entry.id == settings.ctranslate2_model), "")
        self._kind = detect_kind(folder)
        unknown = set(settings.ctranslate2_languages) - FLORES.keys()
        if self._kind == "nllb" and unknown:
            raise InvalidParameter(
                f"ctranslate2_languages: no FLORES code for {', '.join(sorted(unknown))}; there is {', '.join(FLORES)}",
                field="ctranslate2_languages",
            )
        try:
            if self._kind == "marian":
                self._source = SentencePieceTokenizer(folder / "source.spm")
                self._target = SentencePieceTokenizer(folder / "target.spm")
            else:
                self._source = self._target = nllb_tokenizer(folder)
        except (RuntimeError, ValueError, OSError) as error:
            raise WeightsCorrupt(f"{folder.name}: cannot be loaded: {error}") from error
        self._model = folder.name
        self._translator = Translator(folder, settings.compute_type, settings.threads)
        if not settings.residency_target:
            self._translator.load(settings.device)
            self._warm_up()
            return
        self._residency = ResidencyClient(
            settings.residency_target, "translation", settings.residency_wait_s, settings.residency_priority
        )
        num_bytes = self._translator.num_bytes + int(settings.residency_working_bytes)
        self._residency.add(self._model, num_bytes, self._translator)
        self._residency.start()
        try:
            # Weights that cannot be loaded are found now, not by the first caller.
            self._warm_up()
            log.info("takes turns", model=self._model, num_bytes=num_bytes)
        except Exception:
            self._residency.close()
            raise

    def close(self) -> None:
        if self._residency is not None:
            self._residency.close()
        self._translator = None

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Translates texts of any length.

        Raises:
            Cancelled: ``cancelled`` was set while it waited for its turn.
            OutOfMemory: the device has no room for the batch.
            ResourceExhausted: others did not leave it in time, where it takes turns.
        """
        assert self._source is not None
        assert self._target is not None
        assert self._translator is not None
        encode = self._source.encode
        split = [split_text(text, lambda piece: len(encode(piece)), MAX_PIECE_TOKENS) for text in texts]
        pieces = [piece for parts in split for piece in parts if piece.strip()]
        tokens = [self._frame(encode(piece), source) for piece in pieces]
        prefix = [[FLORES[target]]] * len(pieces) if self._kind == "nllb" else None
        model = self._translator

        def work() -> list[Any]:
            results: list[Any] = model.model.translate_batch(
                tokens,
                target_prefix=prefix,
                beam_size=self._settings.beam_size,
                max_batch_size=self._settings.max_batch_tokens,
                batch_type="tokens",
                max_input_length=0,
                max_decoding_length=MAX_OUTPUT_TOKENS,
            )
            return results

        try:
            with self._on_device(cancelled), self._lock:
                results = trying_twice(work, gc.collect)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"no room on {self._settings.device} for {len(pieces)} sentences") from error
            raise
        hypotheses = (result.hypotheses[0][1 if prefix else 0 :] for result in results)
        translated = iter([self._target.decode(hypothesis) for hypothesis in hypotheses])
        return [join_pieces(parts, translated) for parts in split]

    def _warm_up(self) -> None:
        """Translates next to nothing: what the libraries set up for their first work, no caller waits for."""
        languages = self._settings.ctranslate2_languages
        self.translate(["."], languages[0], languages[-1])

    def _on_device(self, cancelled: threading.Event | None) -> AbstractContextManager[object]:
        return nullcontext() if self._residency is None else self._residency.lease(self._model, cancelled=cancelled)

    def _frame(self, tokens: list[str], source: str) -> list[str]:
        return [FLORES[source], *tokens, END] if self._kind == "nllb" else [*tokens, END]


class SentencePieceTokenizer:
    """A SentencePiece model file."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))

    def encode(self, text: str) -> list[str]:
        tokens: list[str] = self._processor.encode(text, out_type=str)
        return tokens

    def decode(self, tokens: list[str]) -> str:
        return str(self._processor.decode(tokens))


class JsonTokenizer:
    """A ``tokenizer.json`` of the tokenizers library, without its template: language codes are added by the engine."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing narrower.
            raise WeightsCorrupt(f"{path.name}: not a tokenizer: {error}") from error

    def encode(self, text: str) -> list[str]:
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def decode(self, tokens: list[str]) -> str:
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        return str(self._tokenizer.decode([i for i in ids if i is not None], skip_special_tokens=True))


def detect_kind(folder: Path) -> Literal["marian", "nllb"]:
    """Tells by its files what a model folder holds.

    Raises:
        WeightsMissing: neither a Marian nor an NLLB model; says which files are expected.
    """
    if (folder / "model.bin").is_file():
        if (folder / "source.spm").is_file() and (folder / "target.spm").is_file():
            return "marian"
        if (folder / "tokenizer.json").is_file() or (folder / "sentencepiece.bpe.model").is_file():
            return "nllb"
    raise WeightsMissing(
        f"{folder.name}: expected model.bin with source.spm and target.spm (Marian), "
        "or with tokenizer.json or sentencepiece.bpe.model (NLLB)"
    )


def nllb_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    return JsonTokenizer(path) if path.is_file() else SentencePieceTokenizer(folder / "sentencepiece.bpe.model")
