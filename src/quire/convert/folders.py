"""Writing a model's folder: safetensors in shards, made of a GGUF file or of another folder.

A folder grows under a name of its own, and gets its name when it is whole.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from quire.convert.merging import MergedFolder
from quire.convert.sources import AT_ONCE
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf.blocks import is_block_type
from quire.gguf.config.experts import FAMILIES, ExpertFamily
from quire.gguf.config.header import Header
from quire.gguf.config.mixers import TILED_OUTPUT
from quire.gguf.folder import gguf_file_of
from quire.gguf.quantize import Bytes, Floats, encode
from quire.gguf.weights import open_files
from quire.json_files import read_json_object
from quire.quantization.formats import without_quantization
from quire.weights.folder import GGUF_SOURCE, read_json
from quire.weights.hub_config import LLAMA_NAMES, HubConfig

DTYPES: Final[Mapping[str, str]] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""The types of folders, and what a `config.json` calls them."""
_SHARD = 5_000_000_000  # bytes of a file, as in transformers
_SIZES: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}
_WEIGHTS = frozenset(
    {".bin", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".ot", ".pt", ".pth", ".safetensors"}
)
_TEMPLATES = "additional_chat_templates"
_CLASSES: Final[Mapping[str, str]] = {
    "apertus": "ApertusForCausalLM",
    "arcee": "ArceeForCausalLM",
    "bloom": "BloomForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "dots1": "Dots1ForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "ministral": "MinistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
"""transformers' classes by model_type, which vLLM asks for."""

OnBytes = Callable[[int], None]
"""Gets how many bytes were written since the last call."""


@dataclass(frozen=True, slots=True)
class _NewTensor:
    name: str
    dtype: str
    """By safetensors' name."""
    shape: tuple[int, ...]
    size: int
    pieces: Callable[[], Iterator[Bytes]]
    """Makes its bytes, a piece at a time."""


class NewFolder:
    """A folder that is to be written: its tensors, and its other files."""

    def __init__(
        self, tensors: Iterable[_NewTensor], files: Mapping[str, str], copied: Iterable[Path] = ()
    ) -> None:
        self._tensors = tuple(tensors)
        self._files, self._copied = files, tuple(copied)

    @property
    def size(self) -> int:
        """Of the tensors, in bytes."""
        return sum(tensor.size for tensor in self._tensors)

    def write(self, target: Path, on_bytes: OnBytes) -> None:
        """Write it, in the place of whatever is there.

        Raises:
            OSError: it cannot be written.
            WeightsError: a tensor cannot be read, or has numbers that its type cannot hold.
        """
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        partial.mkdir()
        try:
            for path in self._copied:
                copy = shutil.copytree if path.is_dir() else shutil.copyfile
                copy(path, partial / path.name)
            for name, text in self._files.items():
                (partial / name).write_text(text, encoding="utf-8")
            self._write_shards(partial, on_bytes)
            if target.exists():
                old = target.with_name(f".{target.name}.{os.getpid()}.old")
                target.rename(old)
                partial.rename(target)
                shutil.rmtree(old)
            else:
                partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write_shards(self, folder: Path, on_bytes: OnBytes) -> None:
        shards = [*_sharded(self._tensors)]
        file_of: dict[str, str] = {}
        for number, tensors in enumerate(shards, start=1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            name = "model.safetensors" if len(shards) == 1 else name
            _write_shard(folder / name, tensors, on_bytes)
            file_of |= {tensor.name: name for tensor in tensors}
        if len(shards) > 1:
            index = {"metadata": {"total_size": self.size}, "weight_map": file_of}
            path = folder / "model.safetensors.index.json"
            path.write_text(json.dumps(index, indent=2), encoding="utf-8")


def _sharded(tensors: Iterable[_NewTensor]) -> Iterator[list[_NewTensor]]:
    shard: list[_NewTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.size > _SHARD:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.size
    yield shard


def _write_shard(path: Path, tensors: Sequence[_NewTensor], on_bytes: OnBytes) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (at, at + tensor.size)
        }  # fmt: skip
        at += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in tensor.pieces():
                file.write(np.ascontiguousarray(piece).data)
                on_bytes(piece.nbytes)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


# ---- of a GGUF file


def folder_of_gguf(source: MergedFolder, dtype: str | None) -> NewFolder:
    """The folder of the model in a GGUF file, with its adapters merged into it.

    Args:
        source: of the folder that is made of the file.
        dtype: one of `DTYPES`; None for the file's own, or float32 where it is quantised.
    """
    made = source.folder
    dtype = dtype or _own_type(Header(open_files(gguf_file_of(made))))
    config = read_json_object(made / "config.json")
    if config["model_type"] not in _CLASSES:
        raise UnsupportedModelError(
            f"quire does not make a folder of a {config['model_type']} in a GGUF file: serve the file, or "
            "take the folder that it was made of"
        )
    config.pop(TILED_OUTPUT, None)  # the folder is in its own order
    tensors: Iterable[_NewTensor]
    if config.pop(LLAMA_NAMES, False):
        tensors = _by_own_names(source, config, dtype.upper())
        config = _own_config(config)
    else:
        fused = _fused_tensors(source.spec)
        apart = {one.name for parts in fused.values() for one in parts}
        names = (name for name in source.source.names() if name not in apart)
        tensors = (
            *(_new_tensor(source, name, dtype) for name in names),
            *(_of_experts(source, parts, dtype.upper()) for parts in fused.values()),
        )
    family = FAMILIES.get(config["model_type"])
    if family is not None and family.fused:
        tensors = _with_fused_experts(tensors, family)
    config |= {
        "architectures": [_CLASSES[config["model_type"]]],
        "torch_dtype": DTYPES[dtype],
        **_named_ends(made),
    }
    texts = {
        one.name: one.read_text(encoding="utf-8")
        for one in made.iterdir()
        if one.name not in (GGUF_SOURCE, "config.json")
    }
    return NewFolder(tensors, {"config.json": _json(config), **texts})


def _with_fused_experts(tensors: Iterable[_NewTensor], family: ExpertFamily) -> list[_NewTensor]:
    """The tensors, with those of all experts of a layer below each other in two."""
    assert family.fused is not None
    before, _, after = map(re.escape, family.experts.partition("{}"))
    own = re.compile(rf"(.*\.){before}\d+{after}({'|'.join(family.maps)})\.weight")
    kept: list[_NewTensor] = []
    stacks: dict[str, list[_NewTensor]] = {}
    for tensor in tensors:
        match = own.fullmatch(tensor.name)
        if match is None:
            kept.append(tensor)
        else:
            name = family.fused[match[2] == family.maps[-1]]
            stacks.setdefault(match[1] + name, []).append(tensor)
    return [*kept, *(_stack(name, parts) for name, parts in stacks.items())]


def _stack(name: str, parts: Sequence[_NewTensor]) -> _NewTensor:
    """Maps of all experts of a layer in one tensor: gate and up of each, or down."""
    rows, columns = parts[0].shape
    experts = len({part.name.rpartition(".experts.")[2].partition(".")[0] for part in parts})
    shape = (experts, len(parts) // experts * rows, columns)

    def pieces() -> Iterator[Bytes]:
        for part in parts:
            yield from part.pieces()

    return _NewTensor(name, parts[0].dtype, shape, sum(part.size for part in parts), pieces)


def _own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what only a file's needs, or transformers computes itself for old models."""
    heads = config["num_attention_heads"]
    computed = {"head_dim": config["hidden_size"] // heads, "num_key_value_heads": heads}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("xielu_") and computed.get(key) != value
    }


def _by_own_names(
    source: MergedFolder, config: Mapping[str, Any], dtype: str
) -> Iterator[_NewTensor]:
    """The tensors of a model that `source` knows by Llama's names, as its own folders have them."""
    own = spec_of(HubConfig(config))
    parts: dict[str, list[tuple[TensorSpec, TensorSpec]]] = {}
    for mine, here in zip(own.tensors(), source.spec.tensors(), strict=True):
        parts.setdefault(mine.name, []).append(
            (mine, dataclasses.replace(here, offset=0.0, stored=None))
        )
    for name, some in parts.items():
        first = some[0][0]
        stored = next(
            (
                there + name.removeprefix(at)
                for there, at in own.names.prefix_map
                if name.startswith(at)
            ),
            name,
        )
        size = math.prod(first.stored_shape) * _SIZES[dtype]
        for index in range(first.pieces or 1):
            make = functools.partial(_assembled, source, some, index, dtype)
            yield _NewTensor(stored.format(index), dtype, first.stored_shape, size, make)


def _assembled(
    source: MergedFolder,
    parts: Sequence[tuple[TensorSpec, TensorSpec]],
    index: int,
    dtype: str,
) -> Iterator[Bytes]:
    """A folder's tensor, or a piece of it, made of one or several of a file."""
    first = parts[0][0]
    whole: Floats = np.empty(first.whole_shape, np.float32)
    for spec, here in parts:
        values = source.rows(here, np.arange(spec.shape[0])).reshape(spec.shape)
        at = 0
        for start, end in spec.rows or ((0, len(values)),):
            whole[start:end] = values[at : at + end - start]
            at += end - start
    made = whole.T if first.transposed else whole
    if first.pieces:
        made = made.reshape(first.pieces, -1)[index]
    yield _encoded(
        np.ascontiguousarray(made).reshape(-1, made.shape[-1]),
        dtype,
        f"{source.folder}: {first.name}",
    )


def _own_type(header: Header) -> str:
    """The type of most of the weights, if it is one that folders have."""
    sizes: dict[str, int] = {}
    for _, entry in header.tensors.values():
        sizes[entry.type.name] = sizes.get(entry.type.name, 0) + entry.size
    largest = max(sizes, key=sizes.__getitem__).lower()
    return largest if largest in DTYPES else "f32"


def _named_ends(folder: Path) -> dict[str, Any]:
    return {"eos_token_id": read_json(folder, "generation_config.json")["eos_token_id"]}


def _fused_tensors(spec: DecoderSpec) -> dict[str, list[TensorSpec]]:
    """The parts of tensors of all experts, by these tensors' names, where folders have no others."""
    fused: dict[str, list[TensorSpec]] = {}
    if spec.experts is None or not spec.experts.names.always_fused:
        return fused
    for layer in range(spec.num_layers):
        for tensor in spec.layer_tensors(layer):
            for part in tensor.within:
                if part.name != tensor.name:
                    fused.setdefault(part.name, []).append(tensor)
    return fused


def _of_experts(source: MergedFolder, parts: Sequence[TensorSpec], dtype: str) -> _NewTensor:
    """One tensor of the maps, or of the biases, of all experts."""
    first = parts[0].within[0]
    shape, count = first.stored_shape, first.shape[0]
    each = len(parts) // count  # gate and up, or down alone

    def pieces() -> Iterator[Bytes]:
        for expert in range(count):
            values = np.empty((1, *shape[1:]), np.float32)
            for one in parts[each * expert : each * (expert + 1)]:
                part = one.within[0]
                own = replace(part, first_row=part.first_row - expert * part.shape[1])
                found = source.stored_rows(source.source.find(one.name), np.arange(one.shape[0]))
                own.take(values, one.shape)[...] = found.reshape(one.shape)
            yield _encoded(values.reshape(-1, shape[-1]), dtype, f"{source.folder}: {first.name}")

    return _NewTensor(first.name, dtype, shape, math.prod(shape) * _SIZES[dtype], pieces)


def _encoded(values: Floats, dtype: str, what: str) -> Bytes:
    if dtype == "F16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise WeightsError(
            f"{what} has weights of up to {np.abs(values).max():g}, which are too large for float16. Take "
            "type=bf16 or type=f32"
        )
    return encode(dtype, values)


# ---- of a folder


def merged_folder(source: MergedFolder, dtype: str | None) -> NewFolder:
    """The folder of the same model with its adapters merged into it.

    Args:
        dtype: one of `DTYPES`; None for the type that each tensor has, bfloat16 for 8-bit floats.

    Raises:
        UnsupportedModelError: an adapter changes experts that the folder has in MXFP4's blocks.
    """
    folder = source.folder
    in_blocks = source.changed_in_blocks()
    if in_blocks is not None:
        raise UnsupportedModelError(
            f"{folder}: the adapter changes {in_blocks.name}, which the folder has in blocks of MXFP4, and "
            "quire makes no such blocks of floats. Name a GGUF file as the target, where what is changed "
            "gets the type that is asked for, or take the folder of the model that is not quantised"
        )
    tensors = (_new_tensor(source, name, dtype) for name in source.source.names())
    files: dict[str, str] = {}
    config = read_json_object(folder / "config.json")
    if source.is_float8:
        config = without_quantization(config)
        files["config.json"] = _json(config)
    if dtype is not None:
        key = "dtype" if "dtype" in config else "torch_dtype"
        files["config.json"] = _json({**config, key: DTYPES[dtype]})
    copied = [
        path
        for path in folder.iterdir()
        if path.name not in files
        and (_is_kept(path) if path.is_file() else path.name == _TEMPLATES)
    ]
    return NewFolder(tensors, files, copied)


def _is_kept(path: Path) -> bool:
    return path.suffix not in _WEIGHTS and not path.name.endswith(".index.json")


def _new_tensor(source: MergedFolder, name: str, dtype: str | None) -> _NewTensor:
    stored = source.source.find(name)
    is_float8 = stored.float8 is not None
    is_number = stored.type in _SIZES or is_block_type(stored.type) or is_float8
    kind = "BF16" if is_float8 else stored.type
    kind = dtype.upper() if dtype is not None and is_number else kind
    shape, width = stored.shape, math.prod(stored.shape[1:])
    is_same = kind == stored.type and stored.is_in_order and stored.name not in source.changed
    size = stored.values.nbytes if is_same else math.prod(shape) * _SIZES[kind]

    def pieces() -> Iterator[Bytes]:
        again = source.source.find(name)  # of a GGUF file it may be a copy, made for this
        if is_same:
            yield again.values.reshape(-1).view(np.uint8)
            return
        if name in source.transposed:
            turned = source.stored_rows(again.transpose(), np.arange(shape[-1])).T
            yield _encoded(np.ascontiguousarray(turned), kind, f"{source.folder}: {again.name}")
            return
        step = max(AT_ONCE // width, 1)
        for first in range(0, shape[0], step):
            rows = np.arange(first, min(first + step, shape[0]))
            values = source.stored_rows(again, rows).reshape(len(rows), -1)
            yield _encoded(values, kind, f"{source.folder}: {again.name}")

    return _NewTensor(stored.name, kind, shape, size, pieces)
