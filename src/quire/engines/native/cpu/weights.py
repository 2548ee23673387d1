"""Weights from a Hugging Face folder: mapped where they can be, packed where they are quantised."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.packed import Tensor
from quire.engines.native.cpu.packer import Packer, QuantizedKind, take_columns
from quire.engines.native.cpu.quantized_modules import read_quantized
from quire.engines.native.models.spec import DecoderSpec, Rows, TensorSpec
from quire.errors import ModelNotFoundError, WeightsError
from quire.quantization.quantized import QuantizedMatrix
from quire.weights.bfloat16 import round_to_bfloat16, widen
from quire.weights.safetensors_file import SafetensorsFile, StoredTensor

WeightsDtype = Literal["auto", "float32", "bfloat16", "float16"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OLD_GPTQ = "gptq_model*.safetensors"  # as AutoGPTQ named its one file
_CONVERT = (
    'python -c "import sys; from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained(sys.argv[1], weights_only=True, dtype='auto')"
    '.save_pretrained(sys.argv[1])" {folder}'
)


class WeightsFolder:
    """The tensors of one folder, in one file or in the many that an index names.

    `spellings`: beginnings of names in the folder, and what they are called here.

    Raises ModelNotFoundError where the folder or a file of it is missing, WeightsError where the
    weights are in another format or damaged.
    """

    def __init__(self, folder: Path | str, spellings: tuple[tuple[str, str], ...] = ()) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ModelNotFoundError(f"{self.folder} is not a folder")
        self._files: dict[str, SafetensorsFile] = {}
        single = self._single()
        if single is not None:
            self._where = dict.fromkeys(self._file(single).names(), single)
        elif (self.folder / _INDEX).is_file():
            self._where = self._read_index()
        else:
            raise self._nothing_to_read()
        self._names = {_respell(name, spellings): name for name in self._where}

    def _single(self) -> str | None:
        """The name of the file that holds all tensors; None where there is none."""
        if (self.folder / _SINGLE).is_file():
            return _SINGLE
        old = [] if (self.folder / _INDEX).is_file() else list(self.folder.glob(_OLD_GPTQ))
        return old[0].name if len(old) == 1 else None

    def _nothing_to_read(self) -> ModelNotFoundError | WeightsError:
        pickled = sorted(p.name for s in ("*.bin", "*.pt", "*.pth") for p in self.folder.glob(s))
        if not pickled:
            return ModelNotFoundError(f"{self.folder} has neither {_SINGLE} nor {_INDEX}")
        command = _CONVERT.format(folder=self.folder)
        return WeightsError(
            f"{self.folder} holds {pickled[0]}, a pickle, which can run code when it is read; the "
            f"native engine reads safetensors only. Convert it safely, with torch and "
            f"transformers installed: {command}"
        )

    def _read_index(self) -> dict[str, str]:
        path = self.folder / _INDEX
        try:
            where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            sound = all(isinstance(file, str) for file in where.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path} is no index of weights: {error!r}") from error
        outside = [file for file in where.values() if not sound or Path(file).name != file]
        if outside:
            raise WeightsError(f"{path} names {outside[0]!r}, which is no file of this folder")
        return where

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            if not (self.folder / name).is_file():
                raise ModelNotFoundError(f"{self.folder} lacks {name}, which its index names")
            self._files[name] = SafetensorsFile(self.folder / name)
        return self._files[name]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def fingerprint(self, samples: int, size: int) -> bytes:
        """A hash of the tensors' names, shapes and types, and of some bytes of each."""
        digest = hashlib.sha256()
        for name in sorted(self._names):
            tensor = self.stored(name)
            digest.update(repr((name, tensor.dtype, tensor.values.shape)).encode())
            flat = tensor.values.reshape(-1).view(np.uint8)
            for start in np.linspace(0, max(0, len(flat) - size), samples, dtype=np.int64):
                digest.update(flat[start : start + size].tobytes())
        return digest.digest()

    def stored(self, name: str) -> StoredTensor:
        """The tensor `name`, whatever its shape and type."""
        if name not in self._names:
            raise WeightsError(f"{self.folder}: the weights lack {name}")
        there = self._names[name]
        return self._file(self._where[there]).tensor(there)

    def tensor(self, spec: TensorSpec) -> StoredTensor:
        """The tensor, or the part of one, that `spec` names, checked against its shape."""
        if spec.name not in self._names and spec.within and spec.within.name in self._names:
            whole = self.tensor(TensorSpec(spec.role, spec.within.name, spec.within.shape))
            rows = whole.values.reshape(-1, whole.values.shape[-1])
            first = spec.within.first_row
            return dataclasses.replace(whole, values=rows[first : first + spec.shape[0]])
        if spec.name not in self._names:
            raise WeightsError(f"{self.folder}: the weights lack {spec.name} {spec.stored_shape}")
        found = self.stored(spec.name)
        if found.values.shape != spec.stored_shape:
            raise WeightsError(
                f"{found.path}: {found.name} has shape {found.values.shape}, "
                f"config.json asks for {spec.stored_shape}"
            )
        if found.dtype not in ("F32", "F16", "BF16", "F64"):
            raise WeightsError(f"{found.path}: {found.name} is stored as {found.dtype}, no float")
        return dataclasses.replace(found, values=take_rows(found.values, spec.rows))


def _respell(name: str, spellings: tuple[tuple[str, str], ...]) -> str:
    for there, here in spellings:
        if name.startswith(there):
            return here + name.removeprefix(there)
    return name


def take_rows(values: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Some rows, without a copy where they lie together; all of them where none are named."""
    parts = [values[first:end] for first, end in rows] or [values]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Weights:
    """A decoder's weights by role.

    Matrices are float32, bfloat16 as uint16, or `PackedMatrix`; vectors float32.
    """

    spec: DecoderSpec
    tensors: dict[str, Any]
    """`embeddings`, `final_norm` and `head`; the same array twice where they are tied."""
    layers: tuple[dict[str, Any], ...]

    def all_tensors(self) -> list[Tensor]:
        """Those of the model and of every layer; what is tied comes twice."""
        return [*self.tensors.values(), *(one for layer in self.layers for one in layer.values())]


def load_weights(
    spec: DecoderSpec,
    folder: Path | str,
    dtype: WeightsDtype = "auto",
    quantize: QuantizedKind | None = None,
    *,
    threads: int = 1,
    say: Callable[[str], None] | None = None,
    with_head: bool = True,
) -> Weights:
    """Map the weights that `spec` names. Tensors that it does not name are left alone.

    `auto` keeps float32 and bfloat16 as they are stored; float16 becomes float32, because the
    kernels compute in float32 and have no cheap widening of it. The other values convert matrices
    where they differ from it, which copies them. Matrices that the folder holds quantised stay so
    with `auto`, and are multiplied out with the others. `quantize` quantises those that are not,
    and keeps the result for the next start; `say` gets a line of text when that takes time.
    A folder that holds the decoder alone, as models for embeddings do, has names without a prefix,
    which are found too. `with_head=False` leaves the head out, which a model that writes no text
    may lack.
    Raises as `WeightsFolder` does.
    """
    source = WeightsFolder(folder, spec.names.spellings)
    if spec.names.embeddings not in source and spec.names.bare().embeddings in source:
        spec = dataclasses.replace(spec, names=spec.names.bare())
    packer = Packer(spec, source, quantize, threads, say)

    def read(tensor: TensorSpec) -> Tensor:
        stored_whole = dataclasses.replace(tensor, shape=tensor.stored_shape)
        quantized = read_quantized(source, stored_whole, spec.quantization)
        if quantized is not None:
            part = take_columns(quantized, tensor.rows)
            wanted = dtype == "auto" and tensor.role != "embeddings"  # rows of which are looked up
            packed = packer.packed(part) if wanted else None
            return unpack_quantized(part, dtype) if packed is None else packed
        stored = source.tensor(tensor)
        if packer.wants(tensor.role):
            return packer.quantized(tensor, stored.values)
        values = convert(stored, "float32" if len(tensor.shape) == 1 else dtype)
        return values + np.float32(tensor.offset) if tensor.offset else values

    tensors = {
        tensor.role: read(tensor)
        for tensor in spec.global_tensors()
        if with_head or tensor.role != "head"
    }
    if with_head and "head" not in tensors:
        tensors["head"] = read(spec.tied_head()) if packer.wants("head") else tensors["embeddings"]
    layers = tuple(
        {tensor.role: read(tensor) for tensor in spec.layer_tensors(layer)}
        for layer in range(spec.num_layers)
    )
    packer.keep()
    return Weights(spec, tensors, layers)


def unpack_quantized(matrix: QuantizedMatrix, dtype: WeightsDtype) -> NDArray[Any]:
    """A quantised matrix multiplied out, which takes the room of a full one."""
    values = matrix.dequantized()
    return round_to_bfloat16(values) if dtype == "bfloat16" else values


def embedding_scale(weights: Weights) -> np.float32:
    """What embeddings are multiplied by; see `DecoderSpec.round_embedding_scale`."""
    scale = np.float32(weights.spec.embedding_scale)
    if weights.spec.round_embedding_scale and weights.tensors["embeddings"].dtype == np.uint16:
        return widen(round_to_bfloat16(np.array([scale])))[0]
    return scale


def convert(stored: StoredTensor, dtype: WeightsDtype) -> NDArray[Any]:
    """The tensor as float32, or as the upper halves of bfloat16; without a copy where it is so."""
    if stored.dtype == "BF16":
        return stored.values if dtype in ("auto", "bfloat16") else widen(stored.values)
    values = stored.values.astype(np.float32, copy=False)
    return round_to_bfloat16(values) if dtype == "bfloat16" else values
