"""What a file may ask for and the engine does not compute: refused by its key."""

from __future__ import annotations

from quire.gguf.architectures.declaration import Architecture
from quire.gguf.config.header import Header
from quire.weights.hub_config import short

_NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.causal": (1,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_scale": (0,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0,),
    "use_parallel_residual": (0,),
}
"""Keys of which the engine computes these values alone."""
_SCALES = ("embedding_scale", "logit_scale", "residual_scale")
_COMPUTED: dict[str, tuple[str, ...]] = {
    "command-r": ("logit_scale",),
    "cohere2": ("logit_scale",),
    "bloom": ("attention.max_alibi_bias",),
    "gptneox": ("use_parallel_residual",),
    "stablelm": ("use_parallel_residual",),
    "olmo": ("attention.clamp_kqv",),
    **dict.fromkeys(("gemma3n", "gemma4"), ("attention.shared_kv_layers",)),
}
"""Those of them that it computes with any value, by architecture."""


def refuse_what_is_not_computed(header: Header, architecture: Architecture) -> None:
    """Check the keys of which the engine computes some values.

    Raises:
        UnsupportedModelError: the file has another value.
    """
    for key, values in _NEUTRAL.items():
        if key not in header or key in _COMPUTED.get(architecture.name, ()):
            continue
        if architecture.scales and key in _SCALES:
            continue
        if key == "attention.temperature_scale" and architecture.grows_queries:
            continue
        value = header.value(key)
        if value not in values:
            raise header.unsupported(
                f"{header.key(key)} is {short(value)}, which the native engine does not compute for "
                f"{architecture.name}"
            )
    is_rotated = header.flag("rope.scaling.finetuned", True)
    if architecture.scales and not architecture.mixer and not is_rotated:
        raise header.unsupported("it is a Granite without rotary embeddings, which is not run")
