"""Whisper weights in the form of transformers, from either form they come in.

What the ensemble serves is CTranslate2's form, and the embedded profile has no other. On the way there projections are
fused and nothing else, so the way back is exact as long as the weights were not quantised to int8.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from narrative.errors import WeightsError
from services.trainer.speech.ctranslate2_file import Variables, read_variables

_MAX_LENGTH = 448


def load_whisper(folder: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Model (float32, on the CPU, in evaluation mode) and processor.

    Args:
        folder: transformers form (``model.safetensors``) or CTranslate2 form (``model.bin`` and ``vocabulary.*``).

    Raises:
        WeightsError: the folder holds neither, another kind of model, or quantised weights.
    """
    if (folder / "model.bin").is_file() and any(folder.glob("vocabulary.*")):
        return _from_ctranslate2(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise WeightsError(f"{folder} holds no Whisper model: neither safetensors nor CTranslate2 weights are there")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "whisper":
        raise WeightsError(f"{folder} holds a model of type {config.get('model_type')!r}; a Whisper model is needed")
    try:
        model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be loaded as a Whisper model: {error}") from error
    model.eval()  # type: ignore[no-untyped-call]
    return model, processor


def _from_ctranslate2(folder: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    variables = read_variables(folder / "model.bin", "WhisperSpec")
    if any(name.endswith("weight_scale") for name in variables):
        raise WeightsError(f"{folder} holds quantised weights, which cannot be trained; name the float16 model")
    settings = _read_json(folder / "config.json")
    tokenizer = _tokenizer(folder)
    config = _config(variables, tokenizer)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    try:
        model.load_state_dict(_state(variables, config), strict=True, assign=True)
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder}/model.bin lacks weights of a Whisper model: {error}") from error
    model.tie_weights()
    model.generation_config = _generation_config(settings, tokenizer)
    features = WhisperFeatureExtractor(feature_size=config.num_mel_bins)  # type: ignore[no-untyped-call]
    processor = WhisperProcessor(feature_extractor=features, tokenizer=tokenizer)  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    return model, processor


def _config(variables: Variables, tokenizer: WhisperTokenizer) -> WhisperConfig:
    width, bands, _ = variables["encoder/conv1/weight"].shape
    vocabulary, _ = variables["decoder/embeddings/weight"].shape
    ends = tokenizer.eos_token_id
    return WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=bands,
        d_model=width,
        encoder_layers=_layers(variables, "encoder"),
        decoder_layers=_layers(variables, "decoder"),
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        decoder_attention_heads=int(variables["decoder/num_heads"]),
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
        decoder_start_token_id=tokenizer.get_added_vocab()["<|startoftranscript|>"],
        bos_token_id=ends,
        eos_token_id=ends,
        pad_token_id=ends,
    )


def _layers(variables: Variables, side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and "/ffn/" in name})


def _state(variables: Variables, config: WhisperConfig) -> dict[str, torch.Tensor]:
    """CTranslate2 keeps q, k and v of an attention in one matrix; transformers in three, k without a bias."""
    state: dict[str, torch.Tensor] = {}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(variables[name].astype(np.float32))

    def linear(source: str, *targets: str) -> None:
        parts = len(targets)
        for part, weight, bias in zip(
            targets, tensor(f"{source}/weight").chunk(parts), tensor(f"{source}/bias").chunk(parts), strict=True
        ):
            state[f"{part}.weight"] = weight.clone()
            if not part.endswith("k_proj"):
                state[f"{part}.bias"] = bias.clone()

    def norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/gamma")
        state[f"{target}.bias"] = tensor(f"{source}/beta")

    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        target = f"model.{side}"
        state[f"{target}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        norm(f"{side}/layer_norm", f"{target}.layer_norm")
        for index in range(layers):
            source, layer = f"{side}/layer_{index}", f"{target}.layers.{index}"
            own, other = f"{layer}.self_attn", f"{layer}.encoder_attn"
            norm(f"{source}/self_attention/layer_norm", f"{layer}.self_attn_layer_norm")
            linear(f"{source}/self_attention/linear_0", f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
            linear(f"{source}/self_attention/linear_1", f"{own}.out_proj")
            if side == "decoder":
                norm(f"{source}/attention/layer_norm", f"{layer}.encoder_attn_layer_norm")
                linear(f"{source}/attention/linear_0", f"{other}.q_proj")
                linear(f"{source}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
                linear(f"{source}/attention/linear_2", f"{other}.out_proj")
            norm(f"{source}/ffn/layer_norm", f"{layer}.final_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{layer}.fc1")
            linear(f"{source}/ffn/linear_1", f"{layer}.fc2")
    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", f"model.encoder.{conv}")
    state["model.decoder.embed_tokens.weight"] = tensor("decoder/embeddings/weight")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def _tokenizer(folder: Path) -> WhisperTokenizer:
    if not (folder / "tokenizer.json").is_file():
        raise WeightsError(f"{folder} has no tokenizer.json; it comes with the weights")
    tokenizer: WhisperTokenizer = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def _generation_config(settings: dict[str, Any], tokenizer: WhisperTokenizer) -> GenerationConfig:
    """What transformers must know to decode as the reference implementation does."""
    vocabulary = tokenizer.get_added_vocab()
    language_ids = set(settings["lang_ids"])
    languages = {token: number for token, number in vocabulary.items() if number in language_ids}
    ends = tokenizer.eos_token_id
    return GenerationConfig(  # type: ignore[no-untyped-call]
        alignment_heads=settings["alignment_heads"],
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        lang_to_id=languages,
        task_to_id={task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        prev_sot_token_id=vocabulary["<|startofprev|>"],
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
        is_multilingual=True,
        max_initial_timestamp_index=50,
        max_length=_MAX_LENGTH,
        return_timestamps=False,
        bos_token_id=ends,
        eos_token_id=ends,
        pad_token_id=ends,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return content
