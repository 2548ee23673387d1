"""The `vllm.general_plugins` entry point, which vLLM calls in each of its processes.

A patch made in the parent would be lost: vLLM spawns its processes. Since every vLLM of this
environment calls `register`, quire's or not, it imports nothing and names a model's class as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quire.errors import ConfigError
from quire.media.yi_vl import DECLARATION, is_yi_vl

if TYPE_CHECKING:
    from vllm.config import ModelConfig

NAME = "quire"
"""The entry point's name, for VLLM_PLUGINS."""

_ARCHITECTURE = "LlavaForConditionalGeneration"
_CLASS = f"quire.engines.vllm.yi_vl:{_ARCHITECTURE}"


def register() -> None:
    """Replace vLLM's LLaVA by a subclass that knows the projector of Yi-VL's checkpoints.

    Those name LLaVA's architecture. A class that another plugin registered for it is kept.
    """
    from vllm import ModelRegistry

    if _is_vllms_own():
        ModelRegistry.register_model(_ARCHITECTURE, _CLASS)


def check_loaded(model: ModelConfig) -> None:
    """Check that vLLM has loaded the plugin, if the model needs it.

    Raises:
        ConfigError: it has not, so the weights would not fit.
    """
    if is_yi_vl(getattr(model.hf_config, DECLARATION, None), {}) and _is_vllms_own():
        raise ConfigError(
            "Yi-VL's projector comes from quire's plugin for vLLM, which vLLM has not loaded: "
            f"name {NAME} in VLLM_PLUGINS where that is set, else install quire-llm again."
        )


def _is_vllms_own() -> bool:
    from vllm import ModelRegistry

    registered = ModelRegistry.models.get(_ARCHITECTURE)
    return str(getattr(registered, "module_name", "")).startswith("vllm.")
