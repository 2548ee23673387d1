"""The `vllm.general_plugins` entry point: what holds in every process of vLLM.

vLLM calls `register` in each of its processes, whatever the model and whoever starts it: nothing is
imported here, and a model's class is named, not loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quire.errors import ConfigError
from quire.media.yi_vl import DECLARATION, is_yi_vl

if TYPE_CHECKING:
    from vllm.config import ModelConfig

NAME = "quire"
"""The entry point's, as VLLM_PLUGINS would have it."""

_ARCHITECTURE = "LlavaForConditionalGeneration"
_CLASS = f"quire.engines.vllm.yi_vl:{_ARCHITECTURE}"


def register() -> None:
    """Let Yi-VL's checkpoints, which name LLaVA's architecture, have their own projector.

    The class that another plugin has registered for this architecture stays.
    """
    from vllm import ModelRegistry

    if _is_vllms_own():
        ModelRegistry.register_model(_ARCHITECTURE, _CLASS)


def check_loaded(model: ModelConfig) -> None:
    """See that vLLM has loaded the plugin, where the model needs it.

    Raises:
        ConfigError: it has not, so that the weights would not fit.
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
