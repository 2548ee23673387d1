"""adapter_config.json: the options that are served, and those that are refused by name.

A plain LoRA adapter adds `scaling * B @ A` to some matrices, and nothing else. An option with which
peft computes something else must not be passed over: the answers would be wrong without a word.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quire.errors import AdapterError
from quire.json_files import read_json_object
from quire.weights.patterns import PatternTable

logger = logging.getLogger("quire")

T = TypeVar("T", int, float)

CONFIG_FILE = "adapter_config.json"

_MERGE = "merge the adapter into the model (peft's merge_and_unload) and serve the result"
_CONVERT = "merge it with quire convert MODEL TARGET adapter_name_or_path=ADAPTER, and serve that"
_PLAIN = f"train a plain LoRA without it, or {_MERGE}"

_REFUSED: dict[str, str] = {
    "modules_to_save": f"such an adapter replaces whole modules; {_MERGE}",
    "trainable_token_indices": f"such an adapter changes the embeddings of tokens; {_MERGE}",
    "target_parameters": f"such an adapter changes bare parameters, not modules; {_CONVERT}",
    "layer_replication": f"such an adapter adds layers to the model; {_MERGE}",
    "use_dora": _CONVERT,
    "lora_bias": _PLAIN,
    "fan_in_fan_out": f"the model stores its matrices transposed; {_MERGE}",
    "use_qalora": _PLAIN,
    "use_bdlora": _PLAIN,
    "alora_invocation_tokens": f"the adapter works on a part of the prompt only; {_PLAIN}",
    "arrow_config": f"the adapter routes between others; {_PLAIN}",
    "kasa_config": _PLAIN,
    "monteclora_config": _PLAIN,
    "megatron_config": f"convert the adapter to peft's own layers first, or {_MERGE}",
}
"""Options that change what is computed, and what to do about each. Falsy values have no effect."""

_EXTENDED = frozenset(["modules_to_save", "lora_bias", "target_parameters", "fan_in_fan_out"])
"""Those of them that extended adapters may have."""

_OF_EXPERTS = ("gate_up_proj", "up_proj", "down_proj")
"""The parameters of all experts of a layer, in the order in which transformers' classes have them: the second
is for experts without gates."""

_KNOWN = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
        "velora_config",
    ]
)
"""Options that are read here, or that matter to training alone (velora_config changes gradients)."""

_SCORES = frozenset(["classifier", "score"])
"""What peft saves of a classifier, by either name, whatever the model calls it."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
_LARGEST_RANK = 1 << 16
_LARGEST_ALPHA = 1e9


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of adapter_config.json that serving needs."""

    folder: Path
    rank: int
    alpha: float
    use_rslora: bool
    base_model: str | None
    rank_pattern: PatternTable[int]
    alpha_pattern: PatternTable[float]
    target_modules: tuple[str, ...]
    """The names that the config lists; empty where it gives a pattern, or excludes modules."""
    modules_to_save: tuple[str, ...] = ()
    """The names of modules whose weights stand whole in the adapter."""
    fan_in_fan_out: bool = False
    """The model stores matrices of linear maps as [in, out], as GPT-2 does; the adapter's are as always."""
    target_parameters: tuple[str, ...] = ()
    """The names of parameters that it changes besides modules, such as `mlp.experts.gate_up_proj`."""

    def parameter_of(self, module: str) -> str | None:
        """The parameter of all experts that a module's pair changes; None if it is a matrix's.

        peft wraps the module that has the parameters once for each, in their order: what belongs to
        the first is inside of what belongs to the second.
        """
        base = without_base_layer(module)
        if base.rpartition(".")[2] != "experts":
            return None
        own = [one for one in _OF_EXPERTS if self._targets(f"{base}.{one}")]
        inside = module.count(".base_layer")
        return own[-1 - inside] if inside < len(own) else None

    def _targets(self, parameter: str) -> bool:
        name = f".{parameter}"
        return any(name.endswith(f".{one}") for one in self.target_parameters)

    def rank_of(self, module: str) -> int:
        """The rank of one module.

        Raises:
            AdapterError: the patterns take too much work.
        """
        return self._by_pattern("rank_pattern", self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """The factor of `B @ A` in one module.

        Raises:
            AdapterError: the patterns take too much work.
        """
        alpha = self._by_pattern("alpha_pattern", self.alpha_pattern, module, self.alpha)
        return self._scaling(self.rank_of(module), alpha)

    @property
    def scaling(self) -> float:
        """The factor of `B @ A` in modules that no pattern names."""
        return self._scaling(self.rank, self.alpha)

    @property
    def largest_rank(self) -> int:
        """The largest rank that the config names, for whatever module."""
        return max((self.rank, *self.rank_pattern.values))

    def _scaling(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _pattern_name(self, module: str) -> str:
        """What patterns are compared with."""
        parameter = self.parameter_of(module)
        return module if parameter is None else f"{without_base_layer(module)}.{parameter}"

    def _by_pattern(self, name: str, table: PatternTable[T], module: str, default: T) -> T:
        try:
            return table.get(self._pattern_name(module), default)
        except ValueError as error:
            raise _unreadable(self.folder, name, error) from None


def read_config(
    folder: Path, *, extended: bool = False, scores: bool = False, dora: bool = False
) -> LoraConfig:
    """Read the folder's adapter_config.json; with more than plain LoRA only if `extended`.

    Args:
        dora: take DoRA as well.
        scores: pass over the `score` of a reward model in `modules_to_save`.

    Raises:
        AdapterError: it is missing, unreadable, no plain LoRA, or has an option that is not served.
    """
    config = _read_json(folder)
    _check_kind(folder, config)
    saved = _names(folder, "modules_to_save", config.get("modules_to_save") or [])
    if scores:
        saved = tuple(name for name in saved if name not in _SCORES)
        config = {**config, "modules_to_save": saved}
    taken = (_EXTENDED if extended else frozenset()) | ({"use_dora"} if dora else frozenset())
    _check_options(folder, config, taken, extended=extended)
    _check_start(folder, config.get("init_lora_weights", True))
    base_model = config.get("base_model_name_or_path")
    return LoraConfig(
        folder=folder,
        rank=_rank(folder, "r", config.get("r")),
        alpha=_alpha(folder, "lora_alpha", config.get("lora_alpha")),
        use_rslora=bool(config.get("use_rslora")),
        base_model=base_model if isinstance(base_model, str) and base_model else None,
        rank_pattern=_pattern(folder, config, "rank_pattern", _rank),
        alpha_pattern=_pattern(folder, config, "alpha_pattern", _alpha),
        target_modules=_target_modules(folder, config),
        modules_to_save=saved,
        target_parameters=_names(
            folder, "target_parameters", config.get("target_parameters") or []
        ),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
    )


def without_base_layer(module: str) -> str:
    """The module itself where a pair stands inside of another's: of two parameters of one module."""
    return module.replace(".base_layer", "")


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise AdapterError(
            f"There is no adapter folder {folder}. An adapter is a folder, as peft's save_pretrained "
            "writes it, or a name on the hub, such as owner/name."
        )
    if not path.is_file():
        raise AdapterError(f"The adapter {folder} has no {CONFIG_FILE}{_what_else(folder)}.")
    try:
        return read_json_object(path)
    except ValueError as error:
        raise AdapterError(
            f"The adapter's {path} cannot be read ({error}). Copy the adapter again."
        ) from None


def _what_else(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return ", but a config.json: it is a whole model. Give it as model_name_or_path"
    return "; give the folder that peft's save_pretrained wrote"


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"The adapter {folder} has peft_type {_short(kind)}; only LORA is served."
        )
    targets = () if config.get("target_parameters") else ("target_modules",)
    missing = [key for key in ("r", "lora_alpha", *targets) if config.get(key) is None]
    if missing:
        raise AdapterError(
            f"The adapter's {folder / CONFIG_FILE} does not say {' and '.join(missing)}. Copy the "
            "adapter again, or save it anew with peft."
        )


def _check_options(
    folder: Path, config: dict[str, Any], taken: frozenset[str], *, extended: bool
) -> None:
    for key, advice in _REFUSED.items():
        if config.get(key) and key not in taken:
            raise AdapterError(
                f"The adapter {folder} has {key} {_short(config[key])}, which is not served: {advice}."
            )
    served = (None, "none", "all", "lora_only") if extended else (None, "none")
    if config.get("bias") not in served:
        raise AdapterError(
            f"The adapter {folder} has bias {_short(config['bias'])}, which is not served: {_PLAIN}."
        )
    unknown = sorted(key for key in config if key not in _KNOWN | _REFUSED.keys() and config[key])
    if unknown:
        logger.warning(
            "The adapter %s has options that quire does not know and passes over: %s",
            folder,
            ", ".join(unknown),
        )


def _check_start(folder: Path, start: Any) -> None:
    """Refuse an initialisation that moves a part of the base model's weights into the adapter.

    peft saves such an adapter (pissa, olora, corda, loftq, lora_ga) as it is, unless it is told to
    convert it, and then it writes `true` here. Unconverted it fits the changed base model alone.
    """
    if start is None or isinstance(start, bool) or start in _PLAIN_STARTS:
        return
    raise AdapterError(
        f"The adapter {folder} has init_lora_weights {_short(start)}: it was trained over a changed base "
        "model. Save it with peft's path_initial_model_for_weight_conversion, or set "
        f"init_lora_weights to true in its {CONFIG_FILE} where the model served is the changed one."
    )


def _rank(folder: Path, name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_RANK:
        return value
    raise AdapterError(
        f"The adapter {folder} has {name} {_short(value)}, which is no rank; an integer from 1 "
        "on is needed. Save it anew with peft."
    )


def _alpha(folder: Path, name: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and 0 < abs(value) <= _LARGEST_ALPHA:
        return float(value)
    why = "with which it changes nothing" if number and value == 0 else "which is no factor"
    raise AdapterError(
        f"The adapter {folder} has {name} {_short(value)}, {why}. Save it anew with peft."
    )


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "too large"
    return text if len(text) <= 40 else f"{text[:40]}..."


def _pattern(
    folder: Path, config: dict[str, Any], name: str, read: Callable[[Path, str, Any], T]
) -> PatternTable[T]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        raise AdapterError(
            f"The adapter {folder} has {name} {_short(values)}, which is no mapping of patterns. "
            "Save it anew with peft."
        )
    checked = {key: read(folder, f"{name} of {_short(key)}", one) for key, one in values.items()}
    try:
        return PatternTable(checked)
    except ValueError as error:
        raise _unreadable(folder, name, error) from None


def _unreadable(folder: Path, name: str, error: ValueError) -> AdapterError:
    return AdapterError(
        f"The adapter {folder} has a {name} that cannot be read: {error}. Name the modules in full "
        f"there, or {_MERGE}."
    )


def _target_modules(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    value = config.get("target_modules")
    if value is None or isinstance(value, str) or config.get("exclude_modules"):
        return ()
    return _names(folder, "target_modules", value)


def _names(folder: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise AdapterError(
            f"The adapter {folder} has {key} {_short(value)}, which is no list of names. "
            "Save it anew with peft."
        )
    return tuple(value)
