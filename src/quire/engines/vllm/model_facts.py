"""What the plan for vLLM needs to know of a model, read from its folder without loading weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.gguf.folder import gguf_file_of
from quire.quantization.formats import are_quantized
from quire.weights.folder import is_gguf_folder, read_json
from quire.weights.gguf_names import model_parts
from quire.weights.mistaken import check_not_empty, no_weights
from quire.weights.safetensors import FETCH_AGAIN, WeightsFolder, read_header

_DEFAULT_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The sizes of a decoder from its `config.json`; 0 where that gives none.

    `max_positions` is the longest sequence in tokens, any RoPE scaling included. `weight_bytes` is
    the size of all weight files, `weight_dtype` the dtype of their tensors.
    """

    folder: Path
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    num_layers: int = 0
    intermediate_size: int = 0
    max_positions: int = _DEFAULT_POSITIONS
    vocab_size: int = 0
    weight_bytes: int = 0
    weight_dtype: str = "bfloat16"
    quantization: str | None = None
    num_experts: int = 0
    rope: Mapping[str, Any] | None = None
    """The config's `rope_parameters`, or `rope_scaling` as transformers before 5 called it."""
    trained_positions: int = _DEFAULT_POSITIONS
    """The longest sequence in tokens without RoPE scaling."""
    is_part: bool = False
    """Whether the decoder is one part of the model, such as the `text_config` of a vision model."""
    corrections: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What `config.json` says of the weights, where the folder shows it to be otherwise."""
    gguf: Path | None = None
    """The file that a GGUF model is opened by; `folder` is then made of its header."""

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that one token takes in the KV cache, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


def read_model_facts(folder: Path) -> ModelFacts:
    """Read the facts from `config.json`. For a model with media they are those of its text decoder.

    Raises:
        ModelNotFoundError: there is no `config.json`, or it holds no JSON object.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: is it a model's folder?")
    if is_gguf_folder(folder):
        return _gguf_facts(folder)
    return _facts(folder, weight_files(folder))


def _gguf_facts(folder: Path) -> ModelFacts:
    path = gguf_file_of(folder)
    facts = _facts(folder, [path.with_name(name) for name in model_parts(path.name)])
    return replace(facts, quantization="gguf", gguf=path)


def _facts(folder: Path, weights: Iterable[Path]) -> ModelFacts:
    config = read_json(folder, "config.json")
    text = _text_config(config)
    heads = _number(text, "num_attention_heads", "n_head")
    hidden = _number(text, "hidden_size", "n_embd")
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    corrections = _corrections(folder, config)
    return ModelFacts(
        folder=folder,
        num_heads=heads,
        num_kv_heads=_number(text, "num_key_value_heads", "multi_query_group_num") or heads,
        head_dim=_number(text, "head_dim") or (hidden // heads if heads else 0),
        num_layers=_number(text, "num_hidden_layers", "n_layer", "num_layers"),
        intermediate_size=_number(text, "intermediate_size", "n_inner"),
        max_positions=_max_positions(text, rope),
        vocab_size=_number(text, "vocab_size"),
        weight_bytes=sum(path.stat().st_size for path in weights),
        weight_dtype=str(
            text.get("dtype") or text.get("torch_dtype") or config.get("dtype")
            or config.get("torch_dtype") or "bfloat16"
        ).removeprefix("torch."),
        quantization=_quantization({**config, **corrections}),
        num_experts=_number(text, "num_experts", "num_local_experts", "n_routed_experts"),
        rope=rope if isinstance(rope, Mapping) else None,
        trained_positions=_trained_positions(text, rope),
        is_part=text is not config,
        corrections=corrections,
    )  # fmt: skip


def _corrections(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What tools leave behind in a config: tied matrices that were trained apart, and the quantisation
    of a model that they have merged back to full precision.
    """
    try:
        source = WeightsFolder(folder)
        found: dict[str, Any] = {}
        tied = config.get("tie_word_embeddings") is True
        if tied and source.are_untied("model.embed_tokens.weight", "lm_head.weight"):
            found["tie_word_embeddings"] = False
        if _quantization(config) == "bitsandbytes" and not are_quantized(source.names()):
            found["quantization_config"] = None
        return found
    except ModelError:  # `check_weights` says what is wrong
        return {}


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text decoder's part of a config; an omni model nests it inside its `thinker_config`."""
    for name in ("thinker_config", "text_config", "llm_config"):
        inner = config.get(name)
        if isinstance(inner, Mapping) and inner:
            config = inner
    return config


def weight_files(folder: Path) -> list[Path]:
    """The weight files. Mistral's `consolidated*` duplicate Hugging Face's and are left out then."""
    files = sorted(folder.glob("*.safetensors"))
    usual = [path for path in files if not path.name.startswith("consolidated")]
    return usual or files


def check_weights(folder: Path) -> None:
    """Check that there are weights and no file is truncated, which vLLM finds out after 20 s.

    Raises:
        WeightsError: a file is truncated, or the weights are pickles only.
        ModelNotFoundError: there are no weights at all.
    """
    if is_gguf_folder(folder):
        return  # whose file was opened whole when the folder was made
    files = weight_files(folder)
    if not files:
        raise no_weights(folder)
    for path in files:
        try:
            header = read_header(path)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}. {FETCH_AGAIN}.") from None
        check_not_empty(folder, ((name, entry.shape) for name, entry in header.items()))


def _number(values: Mapping[str, Any], *names: str) -> int:
    """The value of the first of these keys that holds a positive integer of a model's, else 0."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
            return value
    return 0


def _max_positions(text: Mapping[str, Any], rope: Any) -> int:
    """The longest sequence; with YaRN vLLM computes it from the trained length and the factor."""
    positions = _number(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    positions = positions or _DEFAULT_POSITIONS
    if not isinstance(rope, Mapping):
        return positions
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if kind == "yarn" and isinstance(factor, (int, float)) and 0 < factor < 1e6:
        trained = _number(rope, "original_max_position_embeddings") or positions
        return max(positions, int(trained * factor))
    return positions


def _trained_positions(text: Mapping[str, Any], rope: Any) -> int:
    if isinstance(rope, Mapping):
        original = _number(rope, "original_max_position_embeddings")
        if original:
            return original
    return _max_positions(text, None)


def _quantization(config: Mapping[str, Any]) -> str | None:
    settings = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(settings, Mapping):
        return None
    method = settings.get("quant_method")
    return method.lower() if isinstance(method, str) else "compressed-tensors"
