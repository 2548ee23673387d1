"""What is known of a model before it is loaded: from its metadata and the headers of its weights.

Where the engine would refuse the model, the reasons are kept beside what could be read nevertheless.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import QuireError
from quire.gguf.config.header import shortest
from quire.gguf.config.reading import config_of
from quire.gguf.config.rope import TENSORS as ROPE_TENSORS
from quire.gguf.reader import GgufFile, StringList, Value
from quire.gguf.tokenizer import GgufTokenizer, read_tokenizer
from quire.gguf.weights import GgufSource, open_files
from quire.tokenizer import Tokenizer
from quire.weights.folder import eos_token_ids
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import WeightsFolder

Made = TypeVar("Made")

_TEMPLATE = "tokenizer.chat_template"
_MOST_TEXT = 200  # characters of a name: whoever made the file may have made it long


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of the model."""

    path: str
    bytes: int


@dataclass(slots=True)
class TypeFacts:
    """The tensors of one type."""

    type: str
    tensors: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RopeFacts:
    """The rotary embedding."""

    base: float
    scaling: str = "default"
    factor: float | None = None
    original_context: int | None = None
    rotated: float = 1.0
    """The share of a head that is rotated."""
    local_base: float | None = None
    """Of layers with a window, if they have their own."""
    layers_without: int = 0
    sections: int = 0
    """More than one where positions have several axes (M-RoPE)."""


@dataclass(frozen=True, slots=True)
class ShapeFacts:
    """The sizes of a decoder; None is not known."""

    context: int | None = None
    layers: int | None = None
    hidden: int | None = None
    ffn: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    vocabulary: int | None = None
    """The rows of the embeddings."""
    experts: int | None = None
    experts_per_token: int | None = None
    window: int | None = None
    window_layers: int | None = None
    rope: RopeFacts | None = None


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A token with a purpose."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """The tokenizer and the chat templates."""

    kind: str
    pre: str | None
    """How a tokenizer of byte pairs splits texts, by llama.cpp's name."""
    tokens: int
    bos: TokenFacts | None
    eos: TokenFacts | None
    ends: tuple[TokenFacts, ...]
    """All that end an answer."""
    templates: tuple[str, ...]
    """The names of the chat templates; "default" is that of a file with one."""


@dataclass(slots=True)
class ModelSummary:
    """A model, as far as it can be told without its weights."""

    format: str
    name: str | None
    architecture: str | None
    model_type: str | None = None
    """That of a `config.json`, made of the metadata where there is none."""
    files: list[FileFacts] = field(default_factory=list[FileFacts])
    bytes: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    """Those of tensors that are left aside are counted in neither."""
    types: list[TypeFacts] = field(default_factory=list[TypeFacts])
    """The largest first."""
    quantization: str | None = None
    shape: ShapeFacts = ShapeFacts()
    tokenizer: TokenizerFacts | None = None
    left_aside: list[str] = field(default_factory=list[str])
    """Tensors that the engine does not use."""
    notes: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    """Why the native engine does not run the model; empty if nothing is known that prevents it."""


def read_summary(path: Path) -> ModelSummary:
    """The summary of a GGUF file, or of a model's folder.

    Raises:
        ModelError: the file cannot be read at all, or the folder has no `config.json`.
    """
    with _kept_warnings() as notes:
        summary = _of_folder(path) if path.is_dir() else _of_gguf(path)
    summary.notes += [note.removeprefix(f"{path}: ") for note in notes]
    return summary


def _attempt(refused: list[str], make: Callable[[], Made]) -> Made | None:
    """What `make` returns; None where it is refused, which is then noted."""
    try:
        return make()
    except QuireError as error:
        refused.append(str(error))
        return None


class _Keeper(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _kept_warnings() -> Generator[list[str]]:
    """The warnings that quire logs meanwhile, in the place of showing them."""
    keeper, logger = _Keeper(logging.WARNING), logging.getLogger("quire")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [keeper], False
    try:
        yield keeper.texts
    finally:
        logger.handlers, logger.propagate = before


# ---- GGUF files


def _of_gguf(path: Path) -> ModelSummary:
    file = GgufFile(path)
    metadata = file.metadata
    summary = ModelSummary(
        "GGUF", _text(metadata, "general.name"), _text(metadata, "general.architecture")
    )
    refused = summary.refused
    files = _attempt(refused, lambda: open_files(path)) or [file]
    config = None if refused else _attempt(refused, lambda: config_of(files))
    source = None if config is None else _attempt(refused, lambda: GgufSource(files, config))
    spec = (
        None if config is None else _attempt(refused, lambda: spec_of(HubConfig(config, str(path))))
    )
    tokenizer = None
    if not refused or "tokenizer.ggml.model" in metadata:
        tokenizer = _attempt(refused, lambda: read_tokenizer(metadata, str(path)))
    summary.model_type = None if config is None else config["model_type"]
    summary.left_aside = [] if source is None else list(source.left_aside)
    summary.notes = [] if tokenizer is None else list(tokenizer.notes)
    _add_tensors(summary, files)
    summary.shape = _shape_of_metadata(file) if spec is None else _shape_of_spec(spec)
    summary.tokenizer = _tokenizer_of_metadata(metadata, tokenizer)
    return summary


def _add_tensors(summary: ModelSummary, files: Sequence[GgufFile]) -> None:
    summary.files = [FileFacts(str(file.path), file.size) for file in files]
    summary.bytes = sum(file.size for file in files)
    types: dict[str, TypeFacts] = {}
    unused = {*summary.left_aside, *ROPE_TENSORS}
    for entry in (entry for file in files for entry in file.tensors.values()):
        _count(types, entry.type.name, entry.size)
        if entry.name not in unused:
            summary.parameters += math.prod(entry.shape)
            summary.parameter_bytes += entry.size
    summary.types = _largest_first(types)


def _count(types: dict[str, TypeFacts], name: str, size: int) -> None:
    one = types.setdefault(name, TypeFacts(name))
    one.tensors += 1
    one.bytes += size


def _largest_first(types: Mapping[str, TypeFacts]) -> list[TypeFacts]:
    return sorted(types.values(), key=lambda one: -one.bytes)


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value[:_MOST_TEXT] if isinstance(value, str) and value else None


class _Loose:
    """Look-ups in metadata of which nothing was checked: what makes no sense is None."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self._metadata = metadata
        self._prefix = _text(metadata, "general.architecture") or ""

    def value(self, key: str) -> Any:
        found = self._metadata.get(f"{self._prefix}.{key}")
        if isinstance(found, np.ndarray):  # a value for each layer
            values: set[Any] = set(found.tolist())
            return values.pop() if len(values) == 1 else None
        return found

    def integer(self, key: str) -> int | None:
        found = self.value(key)
        return found if type(found) is int and found > 0 else None

    def number(self, key: str) -> float | None:
        found = self.value(key)
        return shortest(found) if isinstance(found, float) and math.isfinite(found) else None


def _shape_of_metadata(file: GgufFile) -> ShapeFacts:
    """What a file says of a model that the engine does not run."""
    loose = _Loose(file.metadata)
    integer, base, scaling = (
        loose.integer,
        loose.number("rope.freq_base"),
        loose.value("rope.scaling.type"),
    )
    rope = None if base is None else RopeFacts(
        base,
        scaling if isinstance(scaling, str) else "default",
        loose.number("rope.scaling.factor"),
        integer("rope.scaling.original_context_length"),
    )  # fmt: skip
    embeddings = file.tensors.get("token_embd.weight")
    return ShapeFacts(
        context=integer("context_length"),
        layers=integer("block_count"),
        hidden=integer("embedding_length"),
        ffn=integer("feed_forward_length"),
        heads=integer("attention.head_count"),
        kv_heads=integer("attention.head_count_kv"),
        head_size=integer("attention.key_length"),
        vocabulary=embeddings.shape[0] if embeddings is not None else integer("vocab_size"),
        experts=integer("expert_count"),
        experts_per_token=integer("expert_used_count"),
        window=integer("attention.sliding_window"),
        rope=rope,
    )


def _tokenizer_of_metadata(
    metadata: Mapping[str, Value], made: GgufTokenizer | None
) -> TokenizerFacts | None:
    """`made` is None where the tokenizer is refused."""
    kind, tokens = _text(metadata, "tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if kind is None or not isinstance(tokens, StringList):
        return None

    def token(number: Any) -> TokenFacts | None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(tokens):
            return None
        content = next(islice(tokens, number, None))
        return TokenFacts(number, content.decode("utf-8", "replace"))

    def named(name: str) -> TokenFacts | None:
        found = token(metadata.get(f"tokenizer.ggml.{name}_token_id"))
        if found is None and made is not None and f"{name}_token" in made.config:  # by default
            text = made.config[f"{name}_token"].encode()
            return token(next((i for i, one in enumerate(tokens) if one == text), None))
        return found

    ends = () if made is None else made.end_ids
    templates = [key for key in metadata if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")]
    return TokenizerFacts(
        kind,
        _text(metadata, "tokenizer.ggml.pre") if kind == "gpt2" else None,
        len(tokens),
        named("bos"),
        named("eos"),
        tuple(found for number in ends if (found := token(number)) is not None),
        tuple(key[len(_TEMPLATE) + 1 :] or "default" for key in templates),
    )


# ---- folders


def _of_folder(folder: Path) -> ModelSummary:
    config = HubConfig.read(folder)
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else None
    summary = ModelSummary(
        "safetensors", None, architecture, str(config.get("model_type", "")) or None
    )
    refused = summary.refused
    spec = _attempt(refused, lambda: spec_of(config, folder))
    _attempt(refused, lambda: _add_weights(summary, folder))
    tokenizer = _attempt(refused, lambda: Tokenizer.from_folder(folder))
    summary.shape = _shape_of_config(config) if spec is None else _shape_of_spec(spec)
    if spec is not None and spec.quantization is not None:
        summary.quantization = spec.quantization.method
        summary.parameters = _parameters_of(spec)  # several are in one stored integer
    if tokenizer is not None:
        summary.tokenizer = _tokenizer_of_folder(folder, tokenizer)
    return summary


def _add_weights(summary: ModelSummary, folder: Path) -> None:
    weights = WeightsFolder(folder)
    summary.files = [FileFacts(str(path), path.stat().st_size) for path in weights.files()]
    summary.bytes = sum(file.bytes for file in summary.files)
    types: dict[str, TypeFacts] = {}
    try:
        for name in weights.names():
            stored = weights.stored(name)
            _count(types, stored.dtype, stored.values.nbytes)
            summary.parameters += stored.values.size
            summary.parameter_bytes += stored.values.nbytes
    finally:  # what was counted before a file that is missing
        summary.types = _largest_first(types)


def _parameters_of(spec: DecoderSpec) -> int:
    layers = (tensor for layer in range(spec.num_layers) for tensor in spec.layer_tensors(layer))
    return sum(math.prod(tensor.shape) for tensor in (*spec.global_tensors(), *layers))


def _shape_of_config(config: HubConfig) -> ShapeFacts:
    """What a config says of a model that the engine does not run, none of it checked."""
    inner = config.get("text_config")
    values: dict[str, Any] = {**config.values, **(inner if isinstance(inner, dict) else {})}

    def integer(*keys: str) -> int | None:
        found = next((values[key] for key in keys if values.get(key) is not None), None)
        return found if type(found) is int and found > 0 else None

    return ShapeFacts(
        context=integer("max_position_embeddings", "n_positions"),
        layers=integer("num_hidden_layers", "n_layer"),
        hidden=integer("hidden_size", "n_embd"),
        ffn=integer("intermediate_size", "n_inner"),
        heads=integer("num_attention_heads", "n_head"),
        kv_heads=integer("num_key_value_heads"),
        head_size=integer("head_dim"),
        vocabulary=integer("vocab_size"),
        experts=integer("num_local_experts", "num_experts", "n_routed_experts"),
        experts_per_token=integer("num_experts_per_tok"),
        window=integer("sliding_window"),
    )


def _tokenizer_of_folder(folder: Path, tokenizer: Tokenizer) -> TokenizerFacts:
    def token(number: int | None) -> TokenFacts | None:
        text = None if number is None else tokenizer.backend.id_to_token(number)
        return None if number is None or text is None else TokenFacts(number, text)

    def tokens(numbers: Iterable[int]) -> tuple[TokenFacts, ...]:
        return tuple(found for number in numbers if (found := token(number)) is not None)

    template = tokenizer.chat_template
    return TokenizerFacts(
        type(tokenizer.backend.model).__name__,
        None,
        tokenizer.vocab_size,
        token(tokenizer.bos_token_id),
        token(tokenizer.eos_token_id),
        tokens(eos_token_ids(folder, tokenizer.eos_token_id)),
        tuple(template) if isinstance(template, dict) else ("default",) * (template is not None),
    )


# ---- decoders


def _shape_of_spec(spec: DecoderSpec) -> ShapeFacts:
    """The sizes as the engine reads them."""
    windows = [window for window in spec.windows if window]
    experts, shape = spec.experts, _attention_shape(spec)
    dense = max((layer.ffn.size for layer in spec.layers if layer.ffn), default=None)
    return ShapeFacts(
        context=spec.max_positions,
        layers=spec.num_layers,
        hidden=spec.hidden_size,
        ffn=experts.ffn_size if experts else dense,
        heads=shape.heads if shape else None,
        kv_heads=shape.kv_heads if shape else None,
        head_size=shape.head_dim if shape else None,
        vocabulary=spec.vocab_size,
        experts=experts.count if experts else None,
        experts_per_token=experts.per_token if experts else None,
        window=max(windows, default=None),
        window_layers=len(windows) or None,
        rope=_rope_of(spec.rope, spec) if spec.rope else None,
    )


def _attention_shape(spec: DecoderSpec) -> AttentionShape | None:
    """The sizes of the first layer with attention of any kind."""
    mixers = (layer.mixer for layer in spec.layers)
    return next((one.shape for one in mixers if one and one.shape), None)


def _rope_of(rope: RopeSpec, spec: DecoderSpec) -> RopeFacts:
    scaled = rope.kind != "default"
    local = next((one for one, _ in spec.ropes if one.is_local), None)
    without = [one.mixer.rope is None for one in spec.layers if one.mixer and one.mixer.shape]
    return RopeFacts(
        rope.theta,
        rope.kind,
        rope.factor if scaled and rope.kind != "longrope" else None,
        rope.positions if rope.kind in ("yarn", "llama3", "longrope") else None,
        rope.partial,
        local.theta if local is not None and local.theta != rope.theta else None,
        sum(without),
        len(rope.sections),
    )
