"""From a folder's `quantization_config` to its rules, by the method that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quire.quantization import awq, compressed_tensors, gptq
from quire.quantization.schemes import Quantization, Rule
from quire.quantization.settings import refuse
from quire.weights.hub_config import HubConfig

METHODS: dict[str, Callable[[HubConfig], Iterator[Rule]]] = {
    "awq": awq.rules,
    "compressed-tensors": compressed_tensors.rules,
    "gptq": gptq.rules,
}
_KEYS = ("quantization_config", "compression_config")
_FILES = ("quantize_config.json", "quant_config.json")
"""Where AutoGPTQ and AutoAWQ wrote it before `config.json` had a place for it."""


def read_quantization(config: HubConfig, folder: Path | None = None) -> Quantization | None:
    """How the model's weights are quantised; None where they are not.

    Raises UnsupportedModelError for a method or a form of it that this engine does not read, and
    ModelError for settings that contradict themselves.
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


def _method(settings: HubConfig) -> Any:
    """The method; old files do not say it, but have keys of their own."""
    method = settings.get("quant_method", settings.get("method"))
    if isinstance(method, str):
        return method.lower()
    for key, known in (("config_groups", "compressed-tensors"), ("w_bit", "awq"), ("bits", "gptq")):
        if method is None and key in settings:
            return known
    return method
