"""`Architecture`: what a file does not say of its model, since llama.cpp has it in code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ONE_NORM = {"attn_norm": "input_layernorm"}
TWO_NORMS = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp's code knows of an architecture, and how its files hold the weights."""

    name: str
    """As `general.architecture` has it."""
    models: str
    """The models that have it, for people."""
    model_types: tuple[str, ...]
    """The types of Hugging Face folders from which its files are made."""
    model_type: str
    """What its config.json says, where nothing in the file decides otherwise."""

    # -- constants of the computation
    windows: Literal["none", "all", "pattern", "chunks"] = "none"
    """Which layers have the window that the file names; or, as in Llama 4, chunks."""
    window: int = 0
    """The window of files that name none."""
    pattern: int = 0
    """The last of so many layers has no window."""
    local_theta: float | None = None
    """The rotary base of layers with a window; None for that of the others."""
    scales_full_layers_only: bool = False
    """Layers with a window have a rotary embedding of their own, which is not scaled."""
    truncates_yarn: bool = True
    """YaRN's borders between fast and slow dimensions are whole numbers."""
    partial_rotary: bool = False
    """The engine rotates a part of each head, if the file says so."""
    names_theta: bool = True
    """llama.cpp's converter writes the rotary base."""
    wide_layers: int = 0
    """A model of so many layers divides its scores by the root of width / heads, not of the head."""
    attention_cap: float = 0.0
    logits_cap: float = 0.0
    caps: tuple[str, ...] = ()
    """The soft caps that it has, by the config's keys."""
    scales: bool = False
    """Embeddings, the residual stream and logits are scaled by what the file says, as in Granite."""
    grows_queries: bool = False
    """Queries may be multiplied by a factor of their position."""
    no_rope_interval: int = 0
    """Every so many layers, one has no rotary embedding."""
    experts: Literal["none", "some", "all"] = "none"
    """Whether its models have experts."""
    normalised: bool = False
    """The weights of the chosen experts sum to 1."""
    one_part: bool = False
    """A layer is a mixer or an FFN, and not both, and has one norm."""
    layer_inputs: bool = False
    """Layers may get a vector of their own for each token, and share keys and values."""
    sinks: bool = False
    """Each query head has an attention sink."""
    gated_attention: bool = False
    """The rows of queries have those of attention's gates beside them, head by head."""
    mixer: Literal["", "delta_net", "latent", "kimi_delta", "short_conv", "mamba2", "beside"] = ""
    """What some layers, or with `latent` all, have in place of attention; `kimi_delta`: the others have latent
    attention; `beside`: all have Mamba-2 beside it."""

    # -- the weights
    interleaved: bool = False
    """The rows of queries and keys are in llama.cpp's order: see `weights`."""
    rotates_halves: bool = False
    """The rows of queries and keys that are rotated are halves of them in a file, and alternate in a folder."""
    norm_shift: float = 0.0
    """What the weights of norms are larger by than in a folder."""
    norms: Mapping[str, str] = field(default_factory=lambda: NORMS)
    """The norms of a layer: their names in a file, and in a folder."""
    query_key_norms: Literal["", "head", "each", "width"] = ""
    """Norms of queries and keys: over a head, with the same weights for all or with those of each; or over
    all heads. Those of each head are in some of its models alone."""
    norm_names: Mapping[str, str] = field(default_factory=lambda: {"q": "q_norm", "k": "k_norm"})
    """What a folder calls them."""
    fused_qkv: bool = False
    """A folder has queries, keys and values in one tensor."""
    joins_qkv: bool = False
    """A file has queries, keys and values in one tensor, whatever a folder has."""
    fused_gate_up: bool = False
    """A folder has gate and up in one tensor, and so has the file, under the name of up."""
    joins_gate_up: bool = False
    """A file has gate and up of all experts in one tensor."""
    tiled_values: bool = False
    """The value heads of delta nets are in llama.cpp's order: see `weights`."""
    is_written: bool = True
    """quire makes such files of folders, too."""
    llama_names: bool = False
    """Its tensors are known by Llama's names, whatever a folder calls them."""
    eps: str = "rms_norm_eps"
    """What the config calls the small number in norms. By any other name, these are layer norms."""
    norm_biases: bool = False
    gated: bool = True
    """The FFN has a gate."""
    rotary: bool = True
    """Its layers have rotary embeddings."""
    positions: bool = False
    """It has embeddings of positions."""
    embedding_norm: bool = False
    head_bias: bool = False
    final_norm: str = "output_norm"
    """The last norm's name in a file."""
    renames: tuple[tuple[str, str], ...] = ()
    """Parts of names in a folder that are not Llama's: (Llama's, its own)."""
