"""Speech to text with Whisper: language, utterances and words from one pass of the encoder.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from narrative.errors import OutOfMemory, WeightsError
from services.asr.engine import SAMPLE_RATE_HZ, Word

_FRAMES_PER_S = 100
_MAX_S = 30
_MAX_TOKENS = 448
_TIMESTAMP_S = 0.02
_MAX_INITIAL_TIMESTAMP = round(1.0 / _TIMESTAMP_S)
# Without silence behind the last word the decoder does not know that it is the last, and starts again.
_TAIL_S = 2.0
# Audio comes cut at pauses, so a decoder that stops this long before the end has left something out.
_MISSED_S = 1.0
_SURE = 0.5
# Thresholds of the reference implementation: no speech is likely and the text is not; the text repeats itself.
_NO_SPEECH, _UNLIKELY_LOGPROB, _REPETITIVE = 0.6, -1.0, 2.4


@dataclass(frozen=True)
class Utterance:
    """What Whisper takes for one sentence; words keep their spaces, times count from the start of the audio."""

    words: tuple[Word, ...]
    confidence: float

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


@dataclass(frozen=True)
class Transcript:
    """Attributes: language code; utterances in time order; English translation, "" where none was asked for."""

    language: str
    utterances: tuple[Utterance, ...]
    english: str


class Whisper:
    """A loaded model in CTranslate2 form.

    Whisper pads everything to 30 s, so that a turn of three seconds costs as much as one of thirty. The encoder itself
    takes less, and with ten seconds of context and a tail of silence the words stay the same; where they come out
    repetitive nevertheless, the stretch is done again with all 30 s.

    Args:
        folder: weights and tokenizer.
        workers: calls that run at the same time.
        min_context_s: least audio the encoder is given, 10 to 30.

    Raises:
        WeightsError: the folder holds no such model, or the device cannot run it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        compute_type: str,
        cpu_threads: int,
        workers: int,
        beam_size: int,
        min_context_s: float,
    ) -> None:
        try:
            self._model = WhisperModel(
                str(folder), device=device, compute_type=compute_type, cpu_threads=cpu_threads, num_workers=workers
            )
        except (RuntimeError, ValueError) as error:
            raise WeightsError(f"{folder} cannot be loaded as a Whisper model on {device}: {error}") from error
        self._beam_size = beam_size
        self._min_context_s = min_context_s
        # The first call allocates buffers and chooses kernels; better now than in a request.
        self.transcribe(np.zeros(SAMPLE_RATE_HZ, np.float32), language="en", temperature=0.0)

    @property
    def languages(self) -> Sequence[str]:
        """ISO 639-1 codes it understands."""
        languages: list[str] = self._model.supported_languages
        return languages

    def transcribe(
        self,
        audio: npt.NDArray[np.float32],
        *,
        language: str,
        temperature: float,
        likely_language: str = "",
        translate: bool = False,
    ) -> Transcript:
        """Transcribes one stretch, in steps of 30 s where it is longer.

        Args:
            audio: float32 (samples,), [-1, 1], 16 kHz mono.
            language: code, or "" to detect it.
            temperature: 0 to 1.
            likely_language: code to assume where detection is unsure, as it is of very short stretches.
            translate: also translate to English.

        Raises:
            OutOfMemory: the device has no room.
        """
        utterances: list[Utterance] = []
        english: list[str] = []
        start_s, duration_s = 0.0, audio.size / SAMPLE_RATE_HZ
        try:
            while duration_s - start_s > (_MISSED_S if start_s else 0.0):
                step_s = min(_MAX_S, duration_s - start_s)
                first = round(start_s * SAMPLE_RATE_HZ)
                features = self._features(audio[first : first + _MAX_S * SAMPLE_RATE_HZ])
                encoded = self._encode(features, max(self._min_context_s, step_s + _TAIL_S))
                language = language or self._detect(encoded, likely_language)
                heard, heard_s = self._hear(features, encoded, language, temperature, start_s, step_s)
                utterances += heard
                if translate and heard:
                    is_english = language == "en"
                    english += [u.text for u in heard] if is_english else [self._translate(encoded, language, step_s)]
                start_s += heard_s if heard_s > _TIMESTAMP_S else step_s
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise OutOfMemory("the device has no room to transcribe this now", retry_after_s=5.0) from error
            raise
        return Transcript(language, tuple(utterances), " ".join(english))

    def _features(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log mel frames, float32 (bands, frames), 10 ms each."""
        features: npt.NDArray[np.float32] = self._model.feature_extractor(audio)
        return features[:, : _MAX_S * _FRAMES_PER_S]

    def _encode(self, features: npt.NDArray[np.float32], context_s: float) -> StorageView:
        return self._model.encode(pad_or_trim(features, round(min(_MAX_S, context_s) * _FRAMES_PER_S)))

    def _detect(self, encoded: StorageView, likely_language: str) -> str:
        if not self._model.model.is_multilingual:
            return "en"
        token, probability = self._model.model.detect_language(encoded)[0][0]
        if likely_language and probability < _SURE:
            return likely_language
        code: str = token[2:-2]  # "<|en|>"
        return code

    def _hear(
        self,
        features: npt.NDArray[np.float32],
        encoded: StorageView,
        language: str,
        temperature: float,
        start_s: float,
        step_s: float,
    ) -> tuple[list[Utterance], float]:
        """The utterances of one step, and how far into it they reach in seconds."""
        tokenizer = self._tokenizer("transcribe", language)
        tokens, logprob = self._generate(encoded, tokenizer, temperature)
        if _repetitive(tokenizer.decode(tokens)):
            encoded = self._encode(features, _MAX_S)
            tokens, logprob = self._generate(encoded, tokenizer, temperature)
        spans = list(split_at_timestamps(tokens, tokenizer.timestamp_begin, step_s))
        if not spans:
            return [], step_s
        segments: list[dict[str, Any]] = [
            {"seek": 0, "start": begin_s, "end": end_s, "tokens": list(text)} for text, begin_s, end_s in spans
        ]
        frames = min(features.shape[-1], round(step_s * _FRAMES_PER_S))
        self._model.add_word_timestamps(
            [segments],
            tokenizer,
            encoded,
            frames,
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            last_speech_timestamp=0.0,
        )
        utterances = [
            Utterance(
                tuple(
                    Word(
                        word["word"],
                        start_s + float(word["start"]),
                        start_s + float(word["end"]),
                        float(word["probability"]),
                    )
                    for word in segment["words"]
                ),
                min(1.0, exp(logprob)),
            )
            for segment in segments
            if segment["words"]
        ]
        return utterances, spans[-1][2]

    def _translate(self, encoded: StorageView, language: str, step_s: float) -> str:
        tokenizer = self._tokenizer("translate", language)
        tokens, _ = self._generate(encoded, tokenizer, 0.0)
        text: str = tokenizer.decode([token for token in tokens if token < tokenizer.eot])
        return text.strip()

    def _generate(self, encoded: StorageView, tokenizer: Tokenizer, temperature: float) -> tuple[list[int], float]:
        """Tokens with timestamps among them, and their mean log-probability; nothing where nobody speaks."""
        sampling = {"sampling_topk": 0, "sampling_temperature": temperature} if temperature else {}
        result = self._model.model.generate(
            encoded,
            [self._model.get_prompt(tokenizer, [])],
            beam_size=1 if temperature else self._beam_size,
            max_length=_MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            max_initial_timestamp_index=_MAX_INITIAL_TIMESTAMP,
            **sampling,
        )[0]
        tokens: list[int] = result.sequences_ids[0]
        # The score is the mean over the tokens without the end of text; that one counts too.
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        if result.no_speech_prob > _NO_SPEECH and logprob < _UNLIKELY_LOGPROB:
            return [], logprob
        return tokens, logprob

    def _tokenizer(self, task: str, language: str) -> Tokenizer:
        return Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual, task=task, language=language)


def split_at_timestamps(
    tokens: Sequence[int], timestamp_begin: int, duration_s: float
) -> Iterator[tuple[list[int], float, float]]:
    """Text between timestamps as (tokens, start_s, end_s); what no timestamp ends goes on to ``duration_s``.

    Args:
        timestamp_begin: first timestamp token, which stands for zero seconds.
    """
    text: list[int] = []
    begin_s = 0.0
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        end_s = (token - timestamp_begin) * _TIMESTAMP_S
        if text:
            yield text, begin_s, end_s
            text = []
        begin_s = end_s
    if text:
        yield text, begin_s, max(begin_s, duration_s)


def _repetitive(text: str) -> bool:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) > _REPETITIVE if data else False
