"""Speech to text with Whisper: language, utterances and words from one pass of the encoder, several stretches at once.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
from ctranslate2 import DataType, StorageView
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from narrative.errors import OutOfMemory, WeightsError
from narrative.runtime.device_memory import is_out_of_memory, trying_twice
from services.asr.engine import SAMPLE_RATE_HZ, Word
from services.asr.whisper_text import TIMESTAMP_S, Stretch, Transcript, Utterance, is_repetitive, split_at_timestamps

log = structlog.get_logger()
_FRAMES_PER_S = 100
_MAX_S = 30
_MAX_TOKENS = 448
_MAX_INITIAL_TIMESTAMP = round(1.0 / TIMESTAMP_S)
# Without silence behind the last word the decoder does not know that it is the last, and starts again.
_TAIL_S = 2.0
# Audio comes cut at pauses, so a decoder that stops this long before the end has left something out.
_MISSED_S = 1.0
_SURE = 0.5
# Thresholds of the reference implementation: no speech is likely, and the text is not.
_NO_SPEECH, _UNLIKELY_LOGPROB = 0.6, -1.0


@dataclass
class _Progress:
    """How far a stretch has been transcribed."""

    stretch: Stretch
    language: str
    start_s: float = 0.0
    utterances: list[Utterance] = field(default_factory=list)
    english: list[str] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        return self.stretch.audio.size / SAMPLE_RATE_HZ - self.start_s

    @property
    def is_done(self) -> bool:
        return self.left_s <= (_MISSED_S if self.start_s else 0.0)

    @property
    def step_s(self) -> float:
        return min(_MAX_S, self.left_s)

    def audio(self) -> npt.NDArray[np.float32]:
        first = round(self.start_s * SAMPLE_RATE_HZ)
        return self.stretch.audio[first : first + _MAX_S * SAMPLE_RATE_HZ]


class Whisper:
    """A model in CTranslate2 form, to be loaded before use.

    Whisper pads everything to 30 s, so that a turn of three seconds costs as much as one of thirty. The encoder itself
    takes less, and with ten seconds of context and a tail of silence the words stay the same; where they come out
    repetitive nevertheless, the stretch is done again with all 30 s.

    Args:
        folder: weights and tokenizer.
        workers: calls that run at the same time.
        min_context_s: least audio the encoder is given, 10 to 30.
    """

    _model: WhisperModel

    def __init__(
        self, folder: Path, *, compute_type: str, cpu_threads: int, workers: int, beam_size: int, min_context_s: float
    ) -> None:
        self._folder = folder
        self._compute_type = compute_type
        self._cpu_threads = cpu_threads
        self._workers = workers
        self._beam_size = beam_size
        self._min_context_s = min_context_s
        self._device = ""

    def load(self, device: str) -> None:
        """Brings the weights to a device: "cpu", "cuda", "cuda:1", or "host:0" for memory of this machine.

        Raises:
            WeightsError: the folder holds no such model, or the device cannot run it.
            OutOfMemory: the device has no room.
        """
        if device == self._device and self._wake():
            return
        try:
            self._model = trying_twice(lambda: self._read(device), gc.collect)
        except (RuntimeError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(device) from error
            raise WeightsError(f"{self._folder} cannot be loaded as a Whisper model on {device}: {error}") from error
        self._device = device
        try:
            # The first call allocates buffers and chooses kernels; better now than in a request.
            self.transcribe([Stretch(np.zeros(SAMPLE_RATE_HZ, np.float32), "en")], temperature=0.0)
        except Exception:
            self.offload()
            raise

    def _read(self, device: str) -> WhisperModel:
        kind, _, index = device.partition(":")
        return WhisperModel(
            str(self._folder),
            device="cpu" if kind == "host" else kind,
            device_index=int(index or 0) if kind == "cuda" else 0,
            compute_type=self._compute_type,
            cpu_threads=self._cpu_threads,
            num_workers=self._workers,
        )

    def _wake(self) -> bool:
        """Brings back what ``offload`` has left; false where that fails and everything has to be read anew."""
        try:
            trying_twice(self._model.model.load_model, gc.collect)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(self._device) from error
            log.warning("waking failed; loading anew", model=self._folder.name, error=str(error))
            self._device = ""
            return False
        return True

    def _out_of_memory(self, device: str) -> OutOfMemory:
        return OutOfMemory(f"{device} has no room for {self._folder.name} now", retry_after_s=5.0)

    def offload(self) -> None:
        """Takes the weights off the device: from a GPU to host memory, from host memory altogether."""
        self._model.model.unload_model(to_cpu=self._device.startswith("cuda"))

    def context_s(self, duration_s: float) -> float:
        """Seconds of audio the encoder is given for so much speech: speech, and silence that ends it."""
        return min(_MAX_S, max(self._min_context_s, duration_s + _TAIL_S))

    def transcribe(
        self, stretches: Sequence[Stretch], *, temperature: float, translate: bool = False
    ) -> list[Transcript]:
        """Transcribes several stretches at once, which costs little more than one where they are of a similar length.

        Args:
            temperature: 0 to 1; 0 decodes deterministically.
            translate: also translate to English.

        Raises:
            OutOfMemory: the device has no room.
        """
        try:
            return trying_twice(lambda: self._transcribe(stretches, temperature, translate), gc.collect)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory("the device has no room to transcribe this now", retry_after_s=5.0) from error
            raise

    def _transcribe(self, stretches: Sequence[Stretch], temperature: float, translate: bool) -> list[Transcript]:
        states = [_Progress(stretch, stretch.language) for stretch in stretches]
        while waiting := [state for state in states if not state.is_done]:
            self._step(waiting, temperature, translate)
        return [Transcript(state.language, tuple(state.utterances), " ".join(state.english)) for state in states]

    def _step(self, states: Sequence[_Progress], temperature: float, translate: bool) -> None:
        """Transcribes the next 30 s, at most, of every stretch."""
        features = [self._features(state.audio()) for state in states]
        encoded = self._encode(features, self.context_s(max(state.step_s for state in states)))
        self._detect(states, encoded)
        tokenizers = [self._tokenizer("transcribe", state.language) for state in states]
        heard_s = [0.0] * len(states)
        foreign: list[tuple[_Progress, int]] = []
        for index, (tokens, logprob) in enumerate(self._generate(encoded, tokenizers, temperature)):
            state, tokenizer, memory = states[index], tokenizers[index], encoded[index : index + 1]
            if is_repetitive(tokenizer.decode(tokens)):
                memory = self._encode([features[index]], _MAX_S)
                ((tokens, logprob),) = self._generate(memory, [tokenizer], temperature)
            spans = list(split_at_timestamps(tokens, tokenizer.timestamp_begin, state.step_s))
            heard_s[index] = spans[-1][2] if spans else state.step_s
            heard = self._utterances(spans, tokenizer, memory, state, logprob)
            state.utterances += heard
            if translate and heard:
                if state.language == "en":
                    state.english += [utterance.text for utterance in heard]
                else:
                    foreign.append((state, index))
        if foreign:
            self._translate([state for state, _ in foreign], encoded[[index for _, index in foreign]])
        for state, reached_s in zip(states, heard_s, strict=True):
            state.start_s += reached_s if reached_s > TIMESTAMP_S else state.step_s

    def _features(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log mel frames, float32 (bands, frames), 10 ms each."""
        features: npt.NDArray[np.float32] = self._model.feature_extractor(audio)
        return features[:, : _MAX_S * _FRAMES_PER_S]

    def _encode(self, features: Sequence[npt.NDArray[np.float32]], context_s: float) -> npt.NDArray[np.float32]:
        """Encoder output, float32 (stretches, frames of 20 ms, width)."""
        frames = round(context_s * _FRAMES_PER_S)
        batch = StorageView.from_array(np.stack([pad_or_trim(each, frames) for each in features]))
        return np.array(self._model.model.encode(batch, to_cpu=True).to(DataType.float32))

    def _detect(self, states: Sequence[_Progress], encoded: npt.NDArray[np.float32]) -> None:
        if all(state.language for state in states):
            return
        if not self._model.model.is_multilingual:
            found = [[("<|en|>", 1.0)]] * len(states)
        else:
            found = self._model.model.detect_language(StorageView.from_array(encoded))
        for state, guesses in zip(states, found, strict=True):
            token, probability = guesses[0]
            unsure = probability < _SURE and state.stretch.likely_language
            state.language = state.language or unsure or token[2:-2]

    def _utterances(
        self,
        spans: Sequence[tuple[list[int], float, float]],
        tokenizer: Tokenizer,
        encoded: npt.NDArray[np.float32],
        state: _Progress,
        logprob: float,
    ) -> list[Utterance]:
        """Aligns text with audio, word by word."""
        if not spans:
            return []
        segments: list[dict[str, Any]] = [
            {"seek": 0, "start": begin_s, "end": end_s, "tokens": text} for text, begin_s, end_s in spans
        ]
        self._model.add_word_timestamps(
            [segments],
            tokenizer,
            StorageView.from_array(encoded),
            round(state.step_s * _FRAMES_PER_S),
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            last_speech_timestamp=0.0,
        )
        confidence = min(1.0, exp(logprob))
        return [
            Utterance(tuple(_word(word, state.start_s) for word in segment["words"]), confidence)
            for segment in segments
            if segment["words"]
        ]

    def _translate(self, states: Sequence[_Progress], encoded: npt.NDArray[np.float32]) -> None:
        tokenizers = [self._tokenizer("translate", state.language) for state in states]
        for state, tokenizer, (tokens, _) in zip(
            states, tokenizers, self._generate(encoded, tokenizers, 0.0), strict=True
        ):
            text = tokenizer.decode([token for token in tokens if token < tokenizer.eot]).strip()
            if text:
                state.english.append(text)

    def _generate(
        self, encoded: npt.NDArray[np.float32], tokenizers: Sequence[Tokenizer], temperature: float
    ) -> list[tuple[list[int], float]]:
        """Tokens with timestamps among them, and their mean log-probability; no tokens where nobody speaks."""
        sampling = {"sampling_topk": 0, "sampling_temperature": temperature} if temperature else {}
        results = self._model.model.generate(
            StorageView.from_array(encoded),
            [self._model.get_prompt(tokenizer, []) for tokenizer in tokenizers],
            beam_size=1 if temperature else self._beam_size,
            max_length=_MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizers[0], [-1]),
            max_initial_timestamp_index=_MAX_INITIAL_TIMESTAMP,
            **sampling,
        )
        outcomes = []
        for result in results:
            tokens = result.sequences_ids[0]
            # The score is the mean over the tokens without the end of text; that one counts too.
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            nobody = result.no_speech_prob > _NO_SPEECH and logprob < _UNLIKELY_LOGPROB
            outcomes.append(([], logprob) if nobody else (tokens, logprob))
        return outcomes

    def _tokenizer(self, task: str, language: str) -> Tokenizer:
        return Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual, task=task, language=language)


def _word(word: Mapping[str, Any], start_s: float) -> Word:
    return Word(word["word"], start_s + float(word["start"]), start_s + float(word["end"]), float(word["probability"]))
