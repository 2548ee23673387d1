"""A LoRA adapter's folder, as peft writes it, read and checked before an engine sees it.

It is checked by itself, and against the headers of the model's safetensors.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quire.adapters.lora_config import CONFIG_FILE, LoraConfig, read_config
from quire.adapters.weights import (
    AdapterTensors,
    Changes,
    check_values,
    ends_of,
    read_changes,
    read_values,
)
from quire.errors import AdapterError, ModelError, nearest, sentence
from quire.weights.folder import is_gguf_folder
from quire.weights.hub.cache import naming_path
from quire.weights.safetensors import TensorEntry, WeightsFolder, read_header

_UNPACKED = ("F64", "F32", "F16", "BF16", "F8_")
"""Types that store one number an element; others may store several, in another shape."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked LoRA adapter."""

    name: str
    path: Path
    """Absolute."""
    rank: int
    """The largest rank in it; an engine's limit on ranks must be at least that."""
    alpha: float
    """The alpha that belongs to `rank`. Every module is scaled by `scaling`, but in an extended adapter
    those for which its config says otherwise."""
    use_rslora: bool
    modules: tuple[str, ...]
    """The modules of the base model that it changes, sorted: `model.layers.0.self_attn.q_proj`."""
    base_model: str | None
    """What the adapter's config names as its base model: a path or a name of the hub."""
    number: int = 0
    """The id that an `AdapterBook` gave it, from 1; 0 before."""
    extended: bool = False
    """Whether it was read as one that may hold more than pairs of linear maps under one scaling."""
    scores: bool = False
    """Whether it was read as a reward model's, whose head is read elsewhere."""
    dora: bool = False
    """Whether it was read as one that may be DoRA."""
    stored_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What each of the modules is called in the model's weights, as `check_fits` found it."""
    vocabulary: int = 0
    """Rows of the embeddings or the head that it brings, which may be more than the model has; 0
    where it brings neither."""
    config: LoraConfig | None = field(default=None, compare=False, repr=False)
    """Its config as it was read; None of a sum."""
    parts: tuple[Adapter, ...] = ()
    """The adapters whose sum this is, in order; empty for one that is a folder. The path of a sum is
    those of its parts, with commas between them."""

    @property
    def scaling(self) -> float:
        """The factor of `B @ A`: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def read_adapter(
    path: Path,
    name: str | None = None,
    *,
    extended: bool = False,
    scores: bool = False,
    dora: bool = False,
) -> Adapter:
    """Read the adapter in the folder `path` and check it by itself; all of its weights are read.

    Args:
        name: the adapter's; None takes the path's last component, or the repository's of a snapshot in
            the hub's cache, whose own is a commit.
        extended: the engine also serves biases, embeddings and heads (as pairs or whole), and
            several scalings in one adapter.
        scores: of a reward model; its head is read by `quire.weights.score_head`.
        dora: take DoRA as well, which can be merged and is not served.

    Raises:
        AdapterError: the folder holds no plain LoRA adapter that changes something.
    """
    # Made absolute but not resolved: the name of a link is the adapter's name.
    path = Path(os.path.abspath(os.path.expanduser(path)))
    config = read_config(path, extended=extended, scores=scores, dora=dora)
    changes = read_changes(
        path, extended=extended, scores=scores, dora=dora, modules_to_save=config.modules_to_save
    )
    _check_ranks(path, config, changes, extended=extended)
    _check_names(path, "target_modules", config.target_modules, changes)
    _check_names(path, "modules_to_save", config.modules_to_save, changes)
    check_values(path, changes)
    rank = config.largest_rank
    return Adapter(
        name=name or naming_path(path).name,
        path=path,
        rank=rank,
        alpha=_alpha_of(rank, config),
        use_rslora=config.use_rslora,
        modules=changes.modules,
        base_model=config.base_model,
        extended=extended,
        scores=scores,
        dora=dora,
        config=config,
        vocabulary=max((shape[0] for shape in _table_shapes(changes)), default=0),
    )


def _table_shapes(changes: Changes) -> Iterator[tuple[int, ...]]:
    """The shapes of all that has a row for each token: embeddings and heads."""
    yield from (pair.weight_shape[::-1] for pair in changes.embeddings.values())
    yield from (pair.weight_shape for name, pair in changes.pairs.items() if _is_table(name))
    for name, entry in (*changes.matrices.items(), *changes.own.items()):
        if _is_table(name):
            yield entry.shape


def _is_table(module: str) -> bool:
    """Whether a module has a row for each token: embeddings, or a head outside of the layers."""
    *path, last = module.split(".")
    return last in (*_EMBEDDINGS, *_HEADS) and not any(part.isdecimal() for part in path)


def read_tensors(adapter: Adapter) -> AdapterTensors:
    """Read all values of an adapter.

    Raises:
        AdapterError: the files are not what they were when it was checked.
    """
    assert adapter.config is not None, "a sum is read part by part"
    return read_values(adapter.path, _changes_of(adapter), adapter.config.scaling_of)


def _changes_of(adapter: Adapter) -> Changes:
    """What the adapter changes, from its file's header."""
    saved = () if adapter.config is None else adapter.config.modules_to_save
    return read_changes(
        adapter.path,
        extended=adapter.extended,
        scores=adapter.scores,
        dora=adapter.dora,
        modules_to_save=saved,
    )


def _alpha_of(rank: int, config: LoraConfig) -> float:
    if rank == config.rank:
        return config.alpha
    return config.scaling * (math.sqrt(rank) if config.use_rslora else rank)


def _check_ranks(path: Path, config: LoraConfig, changes: Changes, *, extended: bool) -> None:
    for module, pair in changes.all_pairs():
        rank = config.rank_of(module)
        # A parameter with all experts of a layer has so many rows for each.
        has_experts = config.parameter_of(module) is not None
        if pair.rank % rank if has_experts else pair.rank != rank:
            raise AdapterError(
                f"The adapter {path} has rank {pair.rank} in the weights of {module}, but "
                f"{rank} in its {CONFIG_FILE}. Copy both files from one adapter."
            )
        one_scaling = math.isclose(config.scaling_of(module), config.scaling, rel_tol=1e-9)
        if not one_scaling and not extended:
            raise AdapterError(
                f"The adapter {path} scales {module} by {config.scaling_of(module):g} and others by "
                f"{config.scaling:g} (rank_pattern, alpha_pattern); one scaling for all modules is "
                "served. Merge the adapter into the model (peft's merge_and_unload) and serve the "
                "result."
            )


def _check_names(path: Path, key: str, names: tuple[str, ...], changes: Changes) -> None:
    """Refuse a name without weights: it is another model's, or a part of the weights is lost."""
    there = {end for module in changes.modules for end in ends_of(module)}
    for name in names:
        if name not in there:
            raise AdapterError(
                f"The adapter {path} has {name!r} in {key}, but no weights for it: they "
                f"are lost, or the model never had such a module. Take {name!r} out of "
                f"{key} in {CONFIG_FILE} where the rest is wanted without it."
            )


def check_fits(adapter: Adapter, model_folder: Path, *, towers: bool = False) -> dict[str, str]:
    """Check that the model has each module that the adapter changes, in the adapter's shapes.

    Only headers are read. Of a quantised matrix (packed, or not of a floating type) no more than
    its name is checked. Embeddings and heads of an extended adapter may have other numbers of rows
    than the model's: those of another vocabulary.

    Args:
        towers: whether the engine also applies adapters to a tower that sees or hears.

    Returns:
        The stored name of each module.

    Raises:
        AdapterError: a module is not the model's, another shape, or of a tower; or the model's
            folder has no safetensors that can be read.
    """
    modules = read_modules(adapter.path, model_folder)
    stored_names: dict[str, str] = {}
    for name, shape in _changed_shapes(_changes_of(adapter)):
        if adapter.config is not None and adapter.config.parameter_of(name) is not None:
            continue  # folders have it in one tensor or in hundreds: the engine knows in which
        stored_names[name] = _find(adapter, name, modules, model_folder)
        if not towers and modules.is_outside(stored_names[name]):
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, which is no part of the model's text "
                "decoder: adapters of towers and projectors are not served. Merge the adapter into "
                "the model (peft's merge_and_unload) and serve the result."
            )
        there = modules.weight_shape(stored_names[name])
        free = 1 if adapter.extended and _is_table(name) else 0  # dimensions that may differ
        ways = [there or shape]
        if adapter.config is not None and adapter.config.fan_in_fan_out:
            ways.append(ways[0][::-1])
        if all(shape[free:] != way[free : len(shape)] for way in ways):
            raise AdapterError(
                f"The adapter {adapter.path} changes {name} as a matrix of shape "
                f"{list(shape)}, but in the model in {model_folder} it has shape "
                f"{list(ways[0])}. {_whose(adapter)}"
            )
    return stored_names


def _find(adapter: Adapter, name: str, modules: ModelModules, model_folder: Path) -> str:
    """The stored name of a module; its own for the head of a model that stores it with the embeddings.

    Raises:
        AdapterError: the model has no such module.
    """
    stored = modules.find(name)
    if stored is not None:
        return stored
    if adapter.extended and modules.is_tied_head(name):
        return name
    raise AdapterError(
        f"The adapter {adapter.path} changes {name}, which is no module of the model in "
        f"{model_folder}{modules.nearest(name)}. {modules.lacking}{_whose(adapter)}"
    )


def _changed_shapes(changes: Changes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The module and shape [out, in] of every change; [out] of a bias."""
    for name, pair in changes.pairs.items():
        yield name, pair.weight_shape
    for name, pair in changes.embeddings.items():
        yield name, pair.weight_shape[::-1]
    for name, entry in (*changes.matrices.items(), *changes.own.items(), *changes.biases.items()):
        yield name, entry.shape


def _whose(adapter: Adapter) -> str:
    base = f": its config names {adapter.base_model}" if adapter.base_model else ""
    return f"The adapter may belong to another model{base}. Serve it with its own."


# --- the base model's modules --------------------------------------------------------------------


_WRAPPERS = frozenset(
    ["model", "language_model", "text_model", "thinker", "transformer", "backbone"]
)
"""Parts of names that say no more than that a model is inside another's class."""
_EMBEDDINGS = ("embed_tokens", "tok_embeddings", "wte", "word_embeddings", "embed_in")
_HEADS = ("lm_head", "output", "embed_out")


class ModelModules:
    """The modules of a base model that own a tensor, and the shapes of their matrices.

    An adapter names modules as the model's class does, and the stored weights may name them
    differently: `model.layers.0` for `layers.0`, `language_model.model.layers.0` for
    `model.language_model.layers.0` or for the `model.layers.0` of an adapter that was trained on the
    decoder alone. So a name is looked up as it is, then without the parts that only wrap; all others
    count, so that a tower's layer is never taken for the decoder's of the same number.
    """

    def __init__(self, tensors: dict[str, TensorEntry], lacking: str = "") -> None:
        self.lacking = lacking
        """A sentence about what the model may lack that the adapter is right to ask for, for error texts."""
        self._weights = {
            name.removesuffix(".weight"): entry
            for name, entry in tensors.items()
            if name.endswith(".weight")
        }
        self.names = frozenset(name.rpartition(".")[0] for name in tensors) - {""}
        self._unwrapped: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._unwrapped[_without_wrappers(name)].append(name)
        tables = [name for name in self.names if name.rpartition(".")[2] in _EMBEDDINGS]
        self.embeddings = tables[0] if len(tables) == 1 else None
        """The stored name of the embeddings; None where that is not clear."""
        self._decoder = self._find_decoder()

    def _find_decoder(self) -> str:
        """What the names of the text decoder's modules begin with; empty where that is not clear.

        It is the innermost that holds the embeddings, and layers.
        """
        if self.embeddings is None:
            return ""
        layers = [name for name in self.names if any(part.isdecimal() for part in name.split("."))]
        inside = self.embeddings.rpartition(".")[0]
        while inside and not any(name.startswith(f"{inside}.") for name in layers):
            inside = inside.rpartition(".")[0]
        return inside

    def find(self, name: str) -> str | None:
        """The stored name of the module that an adapter calls `name`; None where there is none."""
        if name in self.names:
            return name
        names = self._unwrapped.get(_without_wrappers(name), [])
        return names[0] if len(names) == 1 else None

    def is_tied_head(self, name: str) -> bool:
        """Whether `name` is the head of a model that stores one matrix for it and the embeddings."""
        is_head = _without_wrappers(name) == "lm_head"
        return is_head and self.find(name) is None and self.embeddings is not None

    def is_outside(self, stored: str) -> bool:
        """Whether a module lies outside of the text decoder: in a tower, or between the two."""
        if not self._decoder or stored.rpartition(".")[2] in (*_HEADS, "score"):
            return False
        return not stored.startswith(f"{self._decoder}.")

    def weight_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape [out, in] of a module's weight; None where quantising has packed it."""
        stored = self.embeddings or "" if self.is_tied_head(name) else name
        weight = self._weights.get(stored)
        # What bitsandbytes stores beside it: weight.absmax.
        packed = f"{stored}.weight" in self.names
        if weight is None or packed or not weight.dtype.startswith(_UNPACKED):
            return None
        return weight.shape

    def nearest(self, name: str) -> str:
        """What `errors.nearest` says of the modules with the same numbers in their names.

        A model may have tens of thousands, which take too long to compare.
        """
        numbers = [part for part in name.split(".") if part.isdecimal()]
        alike = (
            one for one in self.names if [p for p in one.split(".") if p.isdecimal()] == numbers
        )
        return nearest(name, itertools.islice(alike, 1000))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


_OTHER_FORM = (
    "A GGUF file has some maps in another form than its model's folder (kv_b_proj of DeepSeek, in_proj_ba "
    "of Qwen3-Next): an adapter of these needs the folder. "
)


def read_modules(adapter: Path, model_folder: Path) -> ModelModules:
    """The modules of the model in `model_folder`, for the check of the adapter at `adapter`.

    Raises:
        AdapterError: the folder has no safetensors, or a file of it cannot be read.
    """
    if is_gguf_folder(model_folder):
        # Here and not above: who has no such model does without it.
        from quire.gguf.folder import open_source

        shapes = open_source(model_folder).shapes()
        entries = {name: TensorEntry("F32", shape, 0) for name, shape in shapes.items()}
        return ModelModules(entries, _OTHER_FORM)
    tensors: dict[str, TensorEntry] = {}
    try:
        source = WeightsFolder(model_folder)  # which finds the files by the loader's own rules
        for path in source.files():
            tensors.update(_read_header(path))
    except (ModelError, ValueError) as error:
        raise AdapterError(
            f"The adapter {adapter} cannot be checked: {sentence(str(error))}"
        ) from None
    absent = source.absent_files()
    return ModelModules(tensors, f"The folder lacks {absent[0]}. " if absent else "")


def _read_header(path: Path) -> dict[str, TensorEntry]:
    try:
        return read_header(path)
    except ValueError as error:
        raise ValueError(f"the model's {path}: {error}; copy the model again") from None
