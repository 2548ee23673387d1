"""The sampling settings that a server takes for requests that set none."""

from __future__ import annotations

from typing import Any

from quire.arguments import GeneratingArguments
from quire.deploy.model import ServedModel
from quire.sampling import OptionResolver

_NAMES = ("temperature", "top_p", "top_k", "repetition_penalty")
_ANY_LENGTH = 2**31


def sampling_defaults(generating: GeneratingArguments, model: ServedModel) -> dict[str, Any]:
    """What quire would take, for vLLM's `override_generation_config`.

    Of a model that is not here only what is configured: the server reads the rest from the model's
    own generation_config.json. `max_new_tokens` only where it is configured, because it is a limit
    of every request there.
    """
    explicit = generating.explicit()
    resolver = OptionResolver(explicit, model.generation_config, context_length=_ANY_LENGTH)
    params = resolver.resolve({}, 1)
    chosen = [name for name in _NAMES if model.is_known or name in explicit]
    if params.greedy and "temperature" not in chosen:
        chosen.insert(0, "temperature")
    values: dict[str, Any] = {name: getattr(params, name) for name in chosen}
    if params.min_p:
        values["min_p"] = params.min_p
    if "max_new_tokens" in explicit:
        values["max_new_tokens"] = params.max_tokens
    return values
