"""The names of a decoder's tensors in its folder, but for those that parts of layers have themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

_OF_WHOLE = (
    "embeddings",
    "positions",
    "embedding_norm",
    "final_norm",
    "layers",
    "layer_embeddings",
    "layer_inputs",
    "layer_inputs_norm",
    "altup_starts",
    "altup_ends",
)
"""The fields whose names begin with `prefix`."""


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of tensors; those of a layer follow `layers.format(index)`.

    What is within attention, an FFN and so on has its names beside its sizes: `AttentionNames`,
    `FfnNames`, `ExpertNames`.
    """

    embeddings: str = "model.embed_tokens.weight"
    positions: str = "model.embed_positions.weight"
    embedding_norm: str = "model.embed_norm.weight"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layers: str = "model.layers.{}."
    prefix: str = "model."
    """What a folder that holds the decoder alone leaves out of the names."""
    prefix_map: tuple[tuple[str, str], ...] = ()
    """Prefixes of names in the folder and the prefixes used here: (stored, here)."""
    attention_norm: str = "input_layernorm"
    ffn_norm: str = "post_attention_layernorm"
    post_attention_norm: str = ""
    post_ffn_norm: str = ""
    layer_scale: str = "layer_scalar"
    layer_embeddings: str = "model.embed_tokens_per_layer.weight"
    layer_inputs: str = "model.per_layer_model_projection"
    layer_inputs_norm: str = "model.per_layer_projection_norm.weight"
    layer_gate: str = "per_layer_input_gate"
    layer_out: str = "per_layer_projection"
    post_layer_norm: str = "post_per_layer_input_norm"
    altup_starts: str = "model.altup_projections.{}"
    altup_ends: str = "model.altup_unembed_projections.{}"

    def bare(self) -> WeightNames:
        """The names in a folder that holds the decoder alone (transformers' `AutoModel`)."""
        changes: dict[str, Any] = {
            field: getattr(self, field).removeprefix(self.prefix) for field in _OF_WHOLE
        }
        return replace(self, **changes)


USUAL_NAMES = WeightNames()
"""Those of Llama, which most folders have."""
