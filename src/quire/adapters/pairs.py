"""adapter_model.safetensors: the pairs of matrices, checked.

peft writes two tensors a module: `base_model.model.<module>.lora_A.weight` of shape [rank, in] and
`...lora_B.weight` of shape [out, rank]. Any other tensor belongs to another kind of adapter.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.safetensors_header import FLOATS, TensorEntry, read_bits, read_header
from quire.errors import AdapterError

WEIGHTS_FILE = "adapter_model.safetensors"

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_PICKLED = ("adapter_model.bin", "adapter_model.pt")
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "tensors = torch.load(sys.argv[1], weights_only=True, map_location='cpu'); "
    'save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[2])"'
)
_AGAIN = "Copy the adapter again, or save it anew with peft."


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of one module: A of shape [rank, in], B of shape [out, rank]."""

    a: TensorEntry
    b: TensorEntry

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self.a.shape[0]

    @property
    def weight_shape(self) -> tuple[int, int]:
        """The shape [out, in] of the matrix that the pair is added to."""
        return self.b.shape[0], self.a.shape[1]


def read_pairs(folder: Path) -> dict[str, Pair]:
    """The pairs of the adapter in `folder`, by the name of the module that each changes.

    Raises:
        AdapterError: the weights are missing, pickled, truncated, or not pairs of LoRA matrices.
    """
    entries = _read_entries(folder)
    sides: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise _other_tensor(folder, name)
        sides.setdefault(match["module"], {})[match["side"]] = entry
    if not sides:
        raise AdapterError(f"The adapter {folder} changes nothing: its weights are empty. {_AGAIN}")
    return {module: _pair(folder, module, sides[module]) for module in sorted(sides)}


def _other_tensor(folder: Path, name: str) -> AdapterError:
    advice = "Merge the adapter into the model (peft's merge_and_unload) and serve the result."
    if name.endswith((".base_layer.weight", ".embed_tokens.weight", ".lm_head.weight")):
        advice = (
            "It is a matrix of the model itself: save the adapter with save_embedding_layers=False "
            "where it was not trained, else merge the adapter into the model (merge_and_unload)."
        )
    return AdapterError(
        f"The adapter {folder} has the tensor {name}, which is not served; only "
        f"base_model.model.<module>.lora_A.weight and .lora_B.weight are. {advice}"
    )


def _read_entries(folder: Path) -> dict[str, TensorEntry]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _no_weights(folder)
    try:
        return read_header(path)
    except ValueError as error:
        raise AdapterError(f"The adapter's weights {path}: {error}. {_AGAIN}") from None


def _no_weights(folder: Path) -> AdapterError:
    for name in _PICKLED:
        if (folder / name).is_file():
            paths = f"{shlex.quote(str(folder / name))} {shlex.quote(str(folder / WEIGHTS_FILE))}"
            return AdapterError(
                f"The adapter {folder} has its weights in {name}, a pickle, which may run code when "
                f"it is loaded. Save them as safetensors, if you trust it:\n{_CONVERT} {paths}"
            )
    return AdapterError(f"The adapter {folder} has no {WEIGHTS_FILE}. {_AGAIN}")


def _pair(folder: Path, module: str, sides: dict[str, TensorEntry]) -> Pair:
    if len(sides) < 2:
        (there,) = sides
        missing = "B" if there == "A" else "A"
        raise AdapterError(
            f"The adapter {folder} has lora_{there} of {module}, but no lora_{missing}. {_AGAIN}"
        )
    pair = Pair(sides["A"], sides["B"])
    shapes = f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}"
    fits = len(pair.a.shape) == len(pair.b.shape) == 2 and pair.a.shape[0] == pair.b.shape[1]
    if not fits or 0 in (*pair.a.shape, *pair.b.shape):
        raise AdapterError(
            f"The adapter {folder} has {shapes} for {module}; [rank, in] and [out, rank] with one "
            f"rank are needed. {_AGAIN}"
        )
    for side, entry in (("A", pair.a), ("B", pair.b)):
        if entry.dtype not in FLOATS:
            raise AdapterError(
                f"The adapter {folder} has lora_{side} of {module} in {entry.dtype}; "
                f"{', '.join(FLOATS)} are served. Save it anew in one of them."
            )
    return pair


def check_values(folder: Path, pairs: Mapping[str, Pair]) -> None:
    """Read every matrix once; a module changes nothing where its A or its B is all zero.

    Raises:
        AdapterError: infinity or NaN in a matrix, or no module of the adapter changes anything.
    """
    path = folder / WEIGHTS_FILE
    changes = False
    for module, pair in pairs.items():
        there = [
            _is_something(path, f"lora_{side} of {module}", entry)
            for side, entry in (("A", pair.a), ("B", pair.b))
        ]
        changes = changes or all(there)
    if not changes:
        raise AdapterError(
            f"The adapter {folder} changes nothing: in every module lora_B (or lora_A) is zero, as "
            "before training. Give one that was trained."
        )


def _is_something(path: Path, what: str, entry: TensorEntry) -> bool:
    """Whether a matrix has a value other than zero, by its bits; the sign of a zero is none."""
    try:
        bits = read_bits(path, entry)
    except ValueError as error:
        raise AdapterError(f"The adapter's weights {path}: {error}. {_AGAIN}") from None
    kind = FLOATS[entry.dtype]
    bits &= kind.magnitude
    if int(bits.max()) >= kind.exponent:  # without the sign, infinity and NaN are the largest
        raise AdapterError(
            f"The adapter's weights {path} have infinity or NaN in {what}: the training failed, or "
            "the file is damaged. Give an earlier checkpoint."
        )
    return bool(bits.any())
