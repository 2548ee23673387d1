"""adapter_model.safetensors: what an adapter changes, checked, and its values.

peft writes two tensors a module: `base_model.model.<module>.lora_A.weight` of shape [rank, in] and
`...lora_B.weight` of shape [out, rank]. An extended adapter may also have

- `...lora_B.bias`, which is scaled and added as B's product is (`lora_bias`);
- `...lora_embedding_A` [rank, tokens] and `...lora_embedding_B` [hidden, rank] of embeddings;
- whole `.weight`s and `.bias`es: of modules in `modules_to_save`, and with `bias`;
- with `save_embedding_layers`, the model's own embeddings and head, whole, as they were in training:
  `.base_layer.weight` of a target, `.original_module.weight` of a module to save (whose trained one
  may be called `.modules_to_save.weight`), `.weight` of any other.

Any other tensor belongs to another kind of adapter. It is refused: what is passed over makes answers
wrong without a word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.errors import AdapterError
from quire.weights.safetensors import FLOATS, TensorEntry, read_bits, read_header

WEIGHTS_FILE = "adapter_model.safetensors"

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_EXTENDED = (
    ("bias_of_b", re.compile(r"base_model\.model\.(?P<module>.+)\.lora_B\.bias")),
    ("embedding_a", re.compile(r"base_model\.model\.(?P<module>.+)\.lora_embedding_A")),
    ("embedding_b", re.compile(r"base_model\.model\.(?P<module>.+)\.lora_embedding_B")),
    ("own", re.compile(r"base_model\.model\.(?P<module>.+)\.(base_layer|original_module)\.weight")),
    ("saved", re.compile(r"base_model\.model\.(?P<module>.+)\.modules_to_save\.weight")),
    ("matrix", re.compile(r"base_model\.model\.(?P<module>.+)\.weight")),
    ("bias", re.compile(r"base_model\.model\.(?P<module>.+?)(\.base_layer)?\.bias")),
)
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.weight)?")
_SCORE = "base_model.model.score."
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
    bias: TensorEntry | None = None
    """What is added to B's product, of shape [out]."""
    magnitude: TensorEntry | None = None
    """Of DoRA: the lengths that the rows of the sum are brought to, of shape [out]."""

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self.a.shape[0]

    @property
    def weight_shape(self) -> tuple[int, int]:
        """The shape [out, in] of the matrix that the pair is added to."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that an adapter changes, by the name of the module."""

    pairs: dict[str, Pair]
    """Of linear maps."""
    embeddings: dict[str, Pair] = field(default_factory=dict[str, Pair])
    """Of embeddings: the two are added to the transposed matrix."""
    matrices: dict[str, TensorEntry] = field(default_factory=dict[str, TensorEntry])
    """Each replaces the module's own weight."""
    own: dict[str, TensorEntry] = field(default_factory=dict[str, TensorEntry])
    """The weights that the model's own modules had in training. They replace the model's wherever it
    uses them: where embeddings and head are tied, in both."""
    biases: dict[str, TensorEntry] = field(default_factory=dict[str, TensorEntry])
    """Each replaces the module's own bias."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that it changes, sorted."""
        parts = (self.pairs, self.embeddings, self.matrices, self.own, self.biases)
        return tuple(sorted({module for part in parts for module in part}))

    def all_pairs(self) -> Iterator[tuple[str, Pair]]:
        """The pairs of linear maps and of embeddings."""
        yield from self.pairs.items()
        yield from self.embeddings.items()


def read_changes(
    folder: Path,
    *,
    extended: bool = False,
    scores: bool = False,
    dora: bool = False,
    modules_to_save: Iterable[str] = (),
) -> Changes:
    """What the adapter in `folder` changes; more than pairs of linear maps only if `extended`.

    Args:
        dora: take the magnitudes of DoRA as well.
        scores: leave out the `score` of a reward model, which `quire.weights.score_head` reads.
        modules_to_save: as in the config. A whole weight of another module is the model's own.

    Raises:
        AdapterError: the weights are missing, pickled, truncated, or another kind of adapter's.
    """
    saved = frozenset(modules_to_save)
    sides: dict[str, dict[str, TensorEntry]] = {}
    others: dict[str, dict[str, TensorEntry]] = {kind: {} for kind, _ in _EXTENDED}
    magnitudes: dict[str, TensorEntry] = {}
    for name, entry in _read_entries(folder).items():
        if scores and name.startswith(_SCORE) and "lora_" not in name:
            continue
        match = _NAME.fullmatch(name)
        if match is not None:
            sides.setdefault(match["module"], {})[match["side"]] = entry
            continue
        magnitude = _MAGNITUDE.fullmatch(name) if dora else None
        if magnitude is not None:
            magnitudes[magnitude["module"]] = entry
            continue
        kind, module = _other_kind(name) if extended else ("", "")
        if not kind:
            raise _other_tensor(folder, name, extended=extended)
        if kind == "matrix" and saved.isdisjoint(ends_of(module)):
            kind = "own"
        others[kind][module] = entry
    if not sides and not any(others.values()):
        raise AdapterError(f"The adapter {folder} changes nothing: its weights are empty. {_AGAIN}")
    changes = Changes(
        _pairs(folder, sides, others["bias_of_b"], magnitudes),
        _pairs(folder, _embedding_sides(others), {}, {}),
        others["saved"] | others["matrix"],
        others["own"],
        others["bias"],
    )
    for what, entry in _wholes(changes):
        _check_type(folder, what, entry)
    return changes


def ends_of(module: str) -> Iterator[str]:
    """A module's name, and its ends after each dot: what a config's list may call it."""
    yield module
    while module := module.partition(".")[2]:
        yield module


def _other_kind(name: str) -> tuple[str, str]:
    """What a tensor of an extended adapter is, and its module; empty for what is unknown."""
    for kind, pattern in _EXTENDED:
        match = pattern.fullmatch(name)
        if match is not None and "lora_" not in match["module"]:
            return kind, match["module"]
    return "", ""


def _embedding_sides(
    others: dict[str, dict[str, TensorEntry]],
) -> dict[str, dict[str, TensorEntry]]:
    sides: dict[str, dict[str, TensorEntry]] = {}
    for side in "AB":
        for module, entry in others[f"embedding_{side.lower()}"].items():
            sides.setdefault(module, {})[side] = entry
    return sides


def _pairs(
    folder: Path,
    sides: dict[str, dict[str, TensorEntry]],
    biases: dict[str, TensorEntry],
    magnitudes: dict[str, TensorEntry],
) -> dict[str, Pair]:
    for module in biases:
        sides.setdefault(module, {})
    for module in magnitudes:
        if module not in sides:
            raise AdapterError(
                f"The adapter {folder} has a magnitude of DoRA for {module} without lora_A and lora_B of "
                "a linear map. Merge the adapter into the model with peft (merge_and_unload)."
            )
    return {
        module: _pair(folder, module, sides[module], biases.get(module), magnitudes.get(module))
        for module in sorted(sides)
    }


def _wholes(changes: Changes) -> Iterator[tuple[str, TensorEntry]]:
    """The tensors that belong to no pair, and what to call them."""
    for module, entry in (*changes.matrices.items(), *changes.own.items()):
        yield f"the weight of {module}", entry
    for module, entry in changes.biases.items():
        yield f"the bias of {module}", entry


def _other_tensor(folder: Path, name: str, *, extended: bool) -> AdapterError:
    if extended:
        return AdapterError(
            f"The adapter {folder} has the tensor {name}, which belongs to no plain LoRA. Merge the "
            "adapter into the model (peft's merge_and_unload) and serve the result."
        )
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


def _pair(
    folder: Path,
    module: str,
    sides: dict[str, TensorEntry],
    bias: TensorEntry | None,
    magnitude: TensorEntry | None,
) -> Pair:
    if len(sides) < 2:
        there = f"lora_{next(iter(sides))}" if sides else "the bias of lora_B"
        missing = "A" if "A" not in sides else "B"
        raise AdapterError(
            f"The adapter {folder} has {there} of {module}, but no lora_{missing}. {_AGAIN}"
        )
    pair = Pair(sides["A"], sides["B"], bias, magnitude)
    shapes = f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}"
    fits = len(pair.a.shape) == len(pair.b.shape) == 2 and pair.a.shape[0] == pair.b.shape[1]
    if bias is not None and fits:
        shapes += f" with a bias {list(bias.shape)}"
        fits = bias.shape == pair.b.shape[:1]
    if magnitude is not None and fits:
        shapes += f" with a magnitude {list(magnitude.shape)}"
        fits = magnitude.shape == pair.b.shape[:1]
    if not fits or 0 in (*pair.a.shape, *pair.b.shape):
        raise AdapterError(
            f"The adapter {folder} has {shapes} for {module}; [rank, in] and [out, rank] with one "
            f"rank are needed. {_AGAIN}"
        )
    for what, entry in _parts(module, pair):
        _check_type(folder, what, entry)
    return pair


def _parts(module: str, pair: Pair) -> Iterator[tuple[str, TensorEntry]]:
    """The tensors of a pair, and what to call them."""
    yield f"lora_A of {module}", pair.a
    yield f"lora_B of {module}", pair.b
    if pair.bias is not None:
        yield f"the bias of lora_B of {module}", pair.bias
    if pair.magnitude is not None:
        yield f"the magnitude of {module}", pair.magnitude


def _check_type(folder: Path, what: str, entry: TensorEntry) -> None:
    if entry.dtype not in FLOATS:
        raise AdapterError(
            f"The adapter {folder} has {what} in {entry.dtype}; {', '.join(FLOATS)} are served. "
            "Save it anew in one of them."
        )


def check_values(folder: Path, changes: Changes) -> None:
    """Read every tensor once; a module changes nothing where its A or its B is all zero.

    A whole weight or bias counts as a change here, since the model's own is not looked at.

    Raises:
        AdapterError: infinity or NaN in a tensor, or no module of the adapter changes anything.
    """
    path = folder / WEIGHTS_FILE
    something = False
    for module, pair in changes.all_pairs():
        a, b, *bias = [_is_something(path, what, entry) for what, entry in _parts(module, pair)]
        something |= (a and b) or any(bias)
    for what, entry in _wholes(changes):
        _is_something(path, what, entry)
        something = True
    if not something:
        raise AdapterError(
            f"The adapter {folder} changes nothing: in every module lora_B (or lora_A) is zero, as "
            "before training. Give one that was trained."
        )


def _is_something(path: Path, what: str, entry: TensorEntry) -> bool:
    """Whether a matrix has a value other than zero, by its bits; -0.0 counts as zero.

    The bits serve for all types alike, bfloat16 too, which NumPy does not know.
    """
    try:
        bits = read_bits(path, entry)
    except ValueError as error:
        raise AdapterError(f"The adapter's weights {path}: {error}. {_AGAIN}") from None
    kind = FLOATS[entry.dtype]
    bits &= kind.magnitude
    if not bits.size:
        return False
    if int(bits.max()) >= kind.exponent:  # without the sign, infinity and NaN are the largest
        raise AdapterError(
            f"The adapter's weights {path} have infinity or NaN in {what}: the training failed, or "
            "the file is damaged. Give an earlier checkpoint."
        )
    return bool(bits.any())


# --- the values ----------------------------------------------------------------------------------

Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[Any]
"""Float32, or bfloat16 as uint16."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """What one module gains: `x @ a.T @ b.T + bias`, or `a.T[tokens] @ b.T` of embeddings."""

    a: Floats
    """(rank, in), or (rank, tokens) of embeddings."""
    b: Floats
    """(out, rank), times the scaling."""
    bias: Floats | None
    """(out,), times the scaling."""
    magnitude: Floats | None = None
    """Of DoRA: the lengths of the rows of the sum."""

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        product = bool(self.a.any()) and bool(self.b.any())
        return not product and (self.bias is None or not self.bias.any())


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """An adapter's values by module; `Changes` says what each part is."""

    pairs: Mapping[str, LoraPair]
    embeddings: Mapping[str, LoraPair]
    matrices: Mapping[str, Matrix]
    own: Mapping[str, Matrix]
    biases: Mapping[str, Floats]


def read_values(
    folder: Path, changes: Changes, scaling_of: Callable[[str], float]
) -> AdapterTensors:
    """The values of an adapter that was checked, as float32: what the native engine adds.

    Args:
        scaling_of: the factor of `B @ A` in a module.

    Raises:
        AdapterError: the file is not what it was when it was checked.
    """

    def pairs(entries: Mapping[str, Pair]) -> dict[str, LoraPair]:
        return {m: _pair_values(folder, pair, scaling_of(m)) for m, pair in entries.items()}

    return AdapterTensors(
        pairs(changes.pairs),
        pairs(changes.embeddings),
        {module: _matrix(folder, entry) for module, entry in changes.matrices.items()},
        {module: _matrix(folder, entry) for module, entry in changes.own.items()},
        {module: _floats(folder, entry) for module, entry in changes.biases.items()},
    )


def _pair_values(folder: Path, pair: Pair, scaling: float) -> LoraPair:
    factor = np.float32(scaling)
    bias = None if pair.bias is None else _floats(folder, pair.bias) * factor
    magnitude = None if pair.magnitude is None else _floats(folder, pair.magnitude)
    return LoraPair(_floats(folder, pair.a), _floats(folder, pair.b) * factor, bias, magnitude)


def _floats(folder: Path, entry: TensorEntry) -> Floats:
    values = _matrix(folder, entry)
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _matrix(folder: Path, entry: TensorEntry) -> Matrix:
    """The values as float32; bfloat16 stays what it is."""
    try:
        bits = read_bits(folder / WEIGHTS_FILE, entry).reshape(entry.shape)
    except ValueError as error:
        raise AdapterError(
            f"The adapter's weights {folder / WEIGHTS_FILE}: {error}. Copy the adapter again."
        ) from None
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    if entry.dtype == "BF16":
        return bits.astype(np.uint16, copy=False)
    with np.errstate(over="ignore"):
        values = bits.view(kinds[entry.dtype]).astype(np.float32, copy=False)
    if entry.dtype == "F64" and not np.isfinite(values).all():
        raise AdapterError(
            f"The adapter's weights {folder / WEIGHTS_FILE} hold numbers too large for float32. Give "
            "an earlier checkpoint."
        )
    return values
