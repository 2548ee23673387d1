"""The formats of quantised checkpoints: from a `quantization_config` to rules, from tensors to a matrix.

The method that a config names decides how its rules are read; a module's scheme decides how its
tensors are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from quire.errors import WeightsError
from quire.quantization import awq, bitsandbytes, compressed_tensors, float8, gptq, mxfp4
from quire.quantization.float8 import Float8Matrix
from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.module_tensors import ModuleTensors, TensorSource
from quire.quantization.schemes import (
    Layout,
    ModuleClass,
    ModuleScheme,
    Quantization,
    Rule,
    refuse,
)
from quire.weights.hub_config import HubConfig

StoredMatrix: TypeAlias = "QuantizedMatrix | Float8Matrix"
_Reader = Callable[[ModuleTensors, tuple[int, int], ModuleScheme], StoredMatrix]

METHODS: dict[str, Callable[[HubConfig], Iterator[Rule]]] = {
    "awq": awq.rules,
    "bitsandbytes": bitsandbytes.rules,
    "compressed-tensors": compressed_tensors.rules,
    "fbgemm_fp8": float8.rules,
    "fp8": float8.rules,
    "gptq": gptq.rules,
    "mxfp4": mxfp4.rules,
}


def _has(part: str) -> Callable[[ModuleTensors], bool]:
    return lambda tensors: part in tensors


def _has_bytes(tensors: ModuleTensors) -> bool:
    return "weight" in tensors and tensors.type_of("weight") == "I8"


# By layout: whether a module is stored so, and the function that reads it.
_LAYOUTS: dict[Layout, tuple[Callable[[ModuleTensors], bool], _Reader]] = {
    "gptq": (_has("qweight"), gptq.read),
    "gptq_v2": (_has("qweight"), gptq.read),
    "awq": (_has("qweight"), awq.read),
    "packed": (_has("weight_packed"), compressed_tensors.read),
    "integers": (_has_bytes, compressed_tensors.read),
    "bitsandbytes": (bitsandbytes.is_stored, bitsandbytes.read),
    "float8": (float8.is_stored, float8.read),
}
_QUANTIZED_PARTS = (
    ".qweight", ".weight_packed", *(f".{scale}" for scale in float8.SCALES), ".weight.absmax",
    ".SCB", mxfp4.BLOCKS,
)  # fmt: skip
"""How the names of tensors end that only quantised modules have."""
_KEYS = ("quantization_config", "compression_config")
_FILES = ("quantize_config.json", "quant_config.json")
"""Files of their own that AutoGPTQ and AutoAWQ wrote before it became part of `config.json`."""


def read_quantization(config: HubConfig, folder: Path | None = None) -> Quantization | None:
    """How the model's weights are quantised; None if they are not.

    Raises:
        UnsupportedModelError: the native engine does not read this method, or this form of it.
        ModelError: the settings contradict themselves.
    """
    settings = _settings(config, folder)
    if settings is None:
        return None
    method = _method(settings)
    if method not in METHODS:
        raise refuse(settings, "quant_method", method, sorted(METHODS))
    return Quantization(method, settings.source, tuple(METHODS[method](settings)))


def _settings(config: HubConfig, folder: Path | None) -> HubConfig | None:
    for key in _KEYS:
        if key in config:
            return config.inner(key, config.get(key))
    for name in _FILES:
        if folder is not None and (folder / name).is_file():
            return HubConfig.read(folder, name)
    return None


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `config.json` without what says how the weights are quantised."""
    plain = {key: value for key, value in config.items() if key not in _KEYS}
    text = plain.get("text_config")
    return (
        plain
        if not isinstance(text, dict)
        else {**plain, "text_config": without_quantization(text)}
    )


def _method(settings: HubConfig) -> Any:
    """The method that settings name. Old files do not name one, but each has a key of its own."""
    method = settings.get("quant_method", settings.get("method"))
    if isinstance(method, str):
        return method.lower()
    for key, known in (
        ("config_groups", "compressed-tensors"),
        ("w_bit", "awq"),
        ("bits", "gptq"),
        ("load_in_4bit", "bitsandbytes"),
        ("load_in_8bit", "bitsandbytes"),
    ):
        if method is None and key in settings:
            return known
    return method


def are_quantized(names: Iterable[str]) -> bool:
    """Whether any of these tensors, by their names, is a part of a quantised module.

    A `quantization_config` does not say so: tools leave it in the config of a model that they have
    merged back to full precision.
    """
    return any(name.endswith(_QUANTIZED_PARTS) for name in names)


def read_quantized(
    source: TensorSource,
    name: str,
    shape: tuple[int, ...],
    quantization: Quantization | None,
    module_class: ModuleClass = "Linear",
) -> StoredMatrix | None:
    """The matrix of a module by the name of its weight; None if it is stored in full precision.

    What the folder holds decides, not the settings alone: writers leave some modules plain that
    their settings would quantise, the head above all.

    Raises:
        WeightsError: the settings leave the module in full precision, but the folder has nothing but
            integers for it; or a tensor is missing, or not as it must be.
    """
    if len(shape) != 2 or not name.endswith(".weight"):
        return None
    module = name.removesuffix(".weight")
    scheme = quantization.scheme_of(module, module_class) if quantization is not None else None
    tensors = ModuleTensors(source, module)
    if scheme is None and bitsandbytes.is_stored(tensors):  # which describes itself
        scheme = ModuleScheme("bitsandbytes", 4, 0)
    if scheme is None:
        _check_plain(tensors, quantization)
        return None
    is_stored, read = _LAYOUTS[scheme.layout]
    columns, depth = shape
    return read(tensors, (columns, depth), scheme) if is_stored(tensors) else None


def _check_plain(tensors: ModuleTensors, quantization: Quantization | None) -> None:
    """Raise WeightsError if a module without a scheme has quantised tensors alone."""
    if "weight" in tensors:
        return
    for part in ("qweight", "weight_packed"):
        if part in tensors:
            where = quantization.source if quantization is not None else "config.json"
            problem = (
                "leaves this module in full precision" if quantization else "says nothing about it"
            )
            raise WeightsError(
                f"The folder holds {tensors.name(part)}, quantised, and no {tensors.name('weight')}; "
                f"{where} {problem}. Copy config.json and quantize_config.json of the same model again"
            )
