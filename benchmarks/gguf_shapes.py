"""The shapes of real models, as GGUF files have them: metadata and tensors by llama.cpp's names.

Large models have fewer layers and tokens here, and every width that they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quire.gguf.tensor_types import type_named

Value = int | float | str | list[int]

FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
"""What llama.cpp takes where a row is no multiple of 256."""


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: str = "F32"
    mean: float = 1.0
    spread: float = 0.125
    """Of the values of an F32."""


class Mixture:
    """Which type each matrix of a file has: all the same, or those of llama.cpp's Q4_K_M."""

    def __init__(self, kind: str, layers: int) -> None:
        self._kind, self._layers = kind, layers

    def gets_more_bits(self, layer: int) -> bool:
        """An eighth of the layers at each end, and every third between."""
        eighth = self._layers // 8
        at_end = layer < eighth or layer >= 7 * self._layers // 8
        return at_end or (layer - eighth) % 3 == 2

    def matrix(self, name: str, *shape: int, more_bits: bool = False) -> Tensor:
        """A matrix, or one for each expert or head."""
        chosen = ("Q6_K" if more_bits else "Q4_K") if self._kind == "Q4_K_M" else self._kind
        if shape[-1] % type_named(chosen).weights:
            chosen = FALLBACKS[chosen]
        return Tensor(f"{name}.weight", shape, chosen)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model. Its layers here are Llama's and Qwen's: attention and a dense FFN."""

    architecture: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    head_norms: bool = False
    rope_theta: float = 500_000.0
    final_norm: str = "output_norm"
    ffn_norm: str = "ffn_norm"

    def metadata(self) -> Mapping[str, Value]:
        """The keys of the architecture."""
        return {
            "context_length": 8192,
            "embedding_length": self.hidden,
            "block_count": self.layers,
            "feed_forward_length": self.ffn,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": self.rope_theta,
            "vocab_size": self.vocabulary,
        }

    def tensors(self, kind: str) -> Iterator[Tensor]:
        """All tensors of a file of this kind."""
        mixture = Mixture(kind, self.layers)
        size = self.vocabulary, self.hidden
        yield mixture.matrix("token_embd", *size, more_bits=self.tied)
        yield Tensor(f"{self.final_norm}.weight", (self.hidden,))
        if not self.tied:
            yield mixture.matrix("output", *size, more_bits=True)
        for layer in range(self.layers):
            name = f"blk.{layer}."
            yield Tensor(f"{name}attn_norm.weight", (self.hidden,))
            yield Tensor(f"{name}{self.ffn_norm}.weight", (self.hidden,))
            yield from self._mixer(layer, name, mixture)
            yield from self._ffn(layer, name, mixture)

    def _mixer(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        """What mixes tokens: attention."""
        yield from self._attention(name, mixture, mixture.gets_more_bits(layer))

    def _ffn(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        yield from self._gated(name, "", self.ffn, mixture, mixture.gets_more_bits(layer))

    def _attention(
        self, name: str, mixture: Mixture, more_bits: bool, query_parts: int = 1
    ) -> Iterator[Tensor]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield mixture.matrix(f"{name}attn_q", query_parts * q, self.hidden)
        yield mixture.matrix(f"{name}attn_k", kv, self.hidden)
        yield mixture.matrix(f"{name}attn_v", kv, self.hidden, more_bits=more_bits)
        yield mixture.matrix(f"{name}attn_output", self.hidden, q)
        for role, rows in (("q", q), ("k", kv), ("v", kv)) if self.qkv_bias else ():
            yield Tensor(f"{name}attn_{role}.bias", (rows,), mean=0.0)
        for role in "qk" if self.head_norms else "":
            yield Tensor(f"{name}attn_{role}_norm.weight", (self.head_dim,))

    def _gated(
        self, name: str, suffix: str, width: int, mixture: Mixture, more_bits: bool, *stack: int
    ) -> Iterator[Tensor]:
        """A gated FFN, or a stack of them."""
        hidden = self.hidden
        yield mixture.matrix(f"{name}ffn_gate{suffix}", *stack, width, hidden)
        yield mixture.matrix(f"{name}ffn_up{suffix}", *stack, width, hidden)
        yield mixture.matrix(f"{name}ffn_down{suffix}", *stack, hidden, width, more_bits=more_bits)


@dataclass(frozen=True, kw_only=True)
class GptOss(Shape):
    """Attention with sinks, every second layer with a window, and experts in MXFP4 in every file."""

    experts: int
    chosen: int
    window: int
    ffn_norm: str = "post_attention_norm"

    def metadata(self) -> Mapping[str, Value]:
        return {
            **super().metadata(),
            "expert_count": self.experts,
            "expert_used_count": self.chosen,
            "expert_feed_forward_length": self.ffn,
            "attention.sliding_window": self.window,
        }

    def _mixer(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        yield from super()._mixer(layer, name, mixture)
        yield Tensor(f"{name}attn_output.bias", (self.hidden,))
        yield Tensor(f"{name}attn_sinks.weight", (self.heads,))

    def _ffn(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        hidden, ffn, count = self.hidden, self.ffn, self.experts
        yield _router(name, count, hidden)
        yield Tensor(f"{name}ffn_gate_inp.bias", (count,))
        for role, *shape in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
            yield Tensor(f"{name}ffn_{role}_exps.weight", (count, *shape), "MXFP4")
            yield Tensor(f"{name}ffn_{role}_exps.bias", (count, shape[0]))


@dataclass(frozen=True, kw_only=True)
class QwenHybrid(Shape):
    """Qwen3.5: of four layers, three have a gated delta net and one has gated attention."""

    key_heads: int
    value_heads: int
    state: int
    taps: int
    rotated: int
    interval: int = 4
    ffn_norm: str = "post_attention_norm"

    def metadata(self) -> Mapping[str, Value]:
        half = self.rotated // 2
        return {
            **super().metadata(),
            "rope.dimension_count": self.rotated,
            "rope.dimension_sections": [half - 2 * (half // 3), half // 3, half // 3, 0],
            "full_attention_interval": self.interval,
            "ssm.conv_kernel": self.taps,
            "ssm.state_size": self.state,
            "ssm.group_count": self.key_heads,
            "ssm.time_step_rank": self.value_heads,
            "ssm.inner_size": self.value_heads * self.state,
        }

    def _mixer(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        more_bits = mixture.gets_more_bits(layer)
        if (layer + 1) % self.interval == 0:
            yield from self._attention(name, mixture, more_bits, query_parts=2)
            return
        hidden, heads = self.hidden, self.value_heads
        inner = heads * self.state
        channels = inner + 2 * self.key_heads * self.state
        yield mixture.matrix(f"{name}attn_qkv", channels, hidden, more_bits=more_bits)
        yield mixture.matrix(f"{name}attn_gate", inner, hidden)
        yield mixture.matrix(f"{name}ssm_beta", heads, hidden)
        yield mixture.matrix(f"{name}ssm_alpha", heads, hidden)
        yield mixture.matrix(f"{name}ssm_out", hidden, inner)
        yield Tensor(f"{name}ssm_conv1d.weight", (channels, self.taps), mean=0.0, spread=0.5)
        # A state forgets a twentieth with each token.
        yield Tensor(f"{name}ssm_a", (heads,), mean=-1.0)
        yield Tensor(f"{name}ssm_dt.bias", (heads,), mean=-3.0)
        yield Tensor(f"{name}ssm_norm.weight", (self.state,))


@dataclass(frozen=True, kw_only=True)
class Sparse(Shape):
    """Layers with experts after dense ones: GLM-4.5."""

    dense: int
    experts: int
    chosen: int
    shared: int
    expert_ffn: int
    rotated: int
    gating: int
    """1 is softmax, 2 sigmoid, whose choice has a bias and whose weights sum to 1."""

    def metadata(self) -> Mapping[str, Value]:
        normalised: dict[str, Value] = {"expert_weights_norm": True} if self.gating == 2 else {}
        return {
            **super().metadata(),
            "rope.dimension_count": self.rotated,
            "leading_dense_block_count": self.dense,
            "expert_count": self.experts,
            "expert_used_count": self.chosen,
            "expert_shared_count": self.shared,
            "expert_feed_forward_length": self.expert_ffn,
            "expert_weights_scale": 1.0,
            "expert_gating_func": self.gating,
            **normalised,
        }

    def _ffn(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        if layer < self.dense:
            yield from super()._ffn(layer, name, mixture)
            return
        more_bits = mixture.gets_more_bits(layer)
        yield _router(name, self.experts, self.hidden)
        if self.gating == 2:
            yield Tensor(f"{name}exp_probs_b.bias", (self.experts,), mean=0.0, spread=0.01)
        yield from self._gated(name, "_exps", self.expert_ffn, mixture, more_bits, self.experts)
        shared = self.shared * self.expert_ffn
        yield from self._gated(name, "_shexp", shared, mixture, more_bits)


@dataclass(frozen=True, kw_only=True)
class LatentSparse(Sparse):
    """DeepSeek-V2-Lite: latent attention whose queries have no rank, and YaRN."""

    rank: int
    value_dim: int

    def metadata(self) -> Mapping[str, Value]:
        return {
            **super().metadata(),
            "attention.q_lora_rank": 0,
            "attention.kv_lora_rank": self.rank,
            "attention.head_count_kv": 1,
            "attention.key_length": self.rank + self.rotated,
            "attention.value_length": self.rank,
            "attention.key_length_mla": self.head_dim,
            "attention.value_length_mla": self.value_dim,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 40.0,
            "rope.scaling.original_context_length": 4096,
            "rope.scaling.yarn_log_multiplier": 0.0707,
        }

    def _mixer(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        heads, hidden, rank = self.heads, self.hidden, self.rank
        yield mixture.matrix(f"{name}attn_q", heads * self.head_dim, hidden)
        yield mixture.matrix(f"{name}attn_kv_a_mqa", rank + self.rotated, hidden)
        yield Tensor(f"{name}attn_kv_a_norm.weight", (rank,))
        yield mixture.matrix(f"{name}attn_k_b", heads, rank, self.head_dim - self.rotated)
        yield mixture.matrix(f"{name}attn_v_b", heads, self.value_dim, rank)
        yield mixture.matrix(f"{name}attn_output", hidden, heads * self.value_dim)


@dataclass(frozen=True, kw_only=True)
class ShortConv(Shape):
    """LFM2: convolutions of few taps, and attention in the layers that are named."""

    attends: tuple[int, ...]
    taps: int
    head_norms: bool = True
    final_norm: str = "token_embd_norm"

    def metadata(self) -> Mapping[str, Value]:
        heads = [self.kv_heads if layer in self.attends else 0 for layer in range(self.layers)]
        return {
            **super().metadata(),
            "attention.head_count_kv": heads,
            "shortconv.l_cache": self.taps,
        }

    def _mixer(self, layer: int, name: str, mixture: Mixture) -> Iterator[Tensor]:
        if layer in self.attends:
            yield from super()._mixer(layer, name, mixture)
            return
        hidden, name = self.hidden, f"{name}shortconv."
        yield mixture.matrix(f"{name}in_proj", 3 * hidden, hidden)
        yield mixture.matrix(f"{name}out_proj", hidden, hidden)
        yield Tensor(f"{name}conv.weight", (hidden, self.taps), mean=0.0, spread=0.5)


def _router(name: str, experts: int, hidden: int) -> Tensor:
    """A router whose scores differ by about 1."""
    return Tensor(f"{name}ffn_gate_inp.weight", (experts, hidden), mean=0.0, spread=hidden**-0.5)


SHAPES: Mapping[str, Shape] = {
    "0.5b": Shape(
        architecture="qwen2", hidden=896, ffn=4864, layers=24, heads=14, kv_heads=2, head_dim=64,
        vocabulary=151_936, tied=True, qkv_bias=True,
    ),
    "1b": Shape(
        architecture="llama", hidden=2048, ffn=8192, layers=16, heads=32, kv_heads=8, head_dim=64,
        vocabulary=128_256, tied=True,
    ),
    "4b": Shape(
        architecture="qwen3", hidden=2560, ffn=9728, layers=36, heads=32, kv_heads=8, head_dim=128,
        vocabulary=151_936, tied=True, head_norms=True,
    ),
    "8b": Shape(
        architecture="llama", hidden=4096, ffn=14_336, layers=32, heads=32, kv_heads=8,
        head_dim=128, vocabulary=128_256, tied=False,
    ),
    "gptoss": GptOss(
        architecture="gpt-oss", hidden=2880, ffn=2880, layers=4, heads=64, kv_heads=8, head_dim=64,
        vocabulary=33_500, tied=False, qkv_bias=True, experts=32, chosen=4, window=128,
    ),
    "qwen3.5": QwenHybrid(
        architecture="qwen35", hidden=2560, ffn=9216, layers=8, heads=16, kv_heads=4, head_dim=256,
        vocabulary=32_000, tied=True, head_norms=True, rope_theta=1e7,
        key_heads=16, value_heads=32, state=128, taps=4, rotated=64,
    ),
    "glm4.5-air": Sparse(
        architecture="glm4moe", hidden=4096, ffn=10_944, layers=3, heads=96, kv_heads=8,
        head_dim=128, vocabulary=32_000, tied=False, qkv_bias=True, rope_theta=1e6,
        ffn_norm="post_attention_norm", dense=1, experts=64, chosen=8, shared=1, expert_ffn=1408,
        rotated=64, gating=2,
    ),
    "deepseek-v2-lite": LatentSparse(
        architecture="deepseek2", hidden=2048, ffn=10_944, layers=5, heads=16, kv_heads=16,
        head_dim=192, vocabulary=32_000, tied=False, rope_theta=10_000.0, dense=1, experts=64,
        chosen=6, shared=2, expert_ffn=1408, rotated=64, gating=1, rank=512, value_dim=128,
    ),
    "lfm2": ShortConv(
        architecture="lfm2", hidden=2048, ffn=8192, layers=16, heads=32, kv_heads=8, head_dim=64,
        vocabulary=65_536, tied=True, rope_theta=1e6, attends=(2, 5, 8, 10, 12, 14), taps=3,
    ),
}  # fmt: skip
"""Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-4B and Llama-3.1-8B; a sixth of gpt-oss-20b, in layers and in tokens;
a quarter of Qwen3.5-4B; 3 layers of GLM-4.5-Air with half of its experts; 5 of DeepSeek-V2-Lite;
LFM2-1.2B. The larger vocabularies are cut to 32,000."""
