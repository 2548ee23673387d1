"""`DecoderSpec`: everything that tells one decoder from another, and the names of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from quire.native.quantization.schemes import Quantization

RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: `rope.inverse_frequencies` says what each field means to each kind.

    `positions` is the context that the model was trained for, before any scaling.
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    positions: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of the tensors in the folder; those of a layer follow `layers.format(layer)`."""

    embeddings: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layers: str = "model.layers.{}."
    attention_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"

    def bare(self) -> WeightNames:
        """The names in a folder that holds the decoder alone (transformers' `AutoModel`)."""
        return replace(
            self,
            embeddings=self.embeddings.removeprefix("model."),
            final_norm=self.final_norm.removeprefix("model."),
            layers=self.layers.removeprefix("model."),
        )


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that the model needs: its role in the layer, its name in the folder, its shape."""

    role: str
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer with RMS norms before attention and before a gated FFN."""

    model_type: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope: RopeSpec
    windows: tuple[int, ...]
    """Per layer: how many positions a token sees, itself included; 0 for all of them."""
    norm_eps: float = 1e-6
    activation: Literal["silu"] = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    """RMS norms over `head_dim` of each query and key head, before the rotary embedding."""
    tied_embeddings: bool = False
    names: WeightNames = WeightNames()
    quantization: Quantization | None = None
    """Which matrices the folder may hold as small whole numbers, and how."""

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5

    def global_tensors(self) -> Iterator[TensorSpec]:
        """The tensors outside the layers: `embeddings`, `final_norm` and, untied, `head`."""
        names = self.names
        yield TensorSpec("embeddings", names.embeddings, (self.vocab_size, self.hidden_size))
        yield TensorSpec("final_norm", names.final_norm, (self.hidden_size,))
        if not self.tied_embeddings:
            yield TensorSpec("head", names.head, (self.vocab_size, self.hidden_size))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        """The tensors of one layer; a linear map's role is followed by its `<role>_bias`."""
        names, prefix = self.names, self.names.layers.format(layer)
        linears = (
            ("q", names.q, self.q_size, self.hidden_size, self.qkv_bias),
            ("k", names.k, self.kv_size, self.hidden_size, self.qkv_bias),
            ("v", names.v, self.kv_size, self.hidden_size, self.qkv_bias),
            ("o", names.o, self.hidden_size, self.q_size, self.o_bias),
            ("gate", names.gate, self.ffn_size, self.hidden_size, self.mlp_bias),
            ("up", names.up, self.ffn_size, self.hidden_size, self.mlp_bias),
            ("down", names.down, self.hidden_size, self.ffn_size, self.mlp_bias),
        )
        for role, name, rows, columns, bias in linears:
            yield TensorSpec(role, f"{prefix}{name}.weight", (rows, columns))
            if bias:
                yield TensorSpec(f"{role}_bias", f"{prefix}{name}.bias", (rows,))
        norms = [("attention_norm", names.attention_norm, self.hidden_size)]
        norms += [("ffn_norm", names.ffn_norm, self.hidden_size)]
        if self.head_norms:
            norms += [("q_norm", names.q_norm, self.head_dim)]
            norms += [("k_norm", names.k_norm, self.head_dim)]
        for role, name, size in norms:
            yield TensorSpec(role, f"{prefix}{name}.weight", (size,))
