"""`LayerSpec`: one layer of a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quire.engines.native.models.layers.attention import AttentionShape, AttentionSpec
from quire.engines.native.models.layers.experts import ExpertsSpec
from quire.engines.native.models.layers.ffn import FfnSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.tensors import TensorSpec

Flow = Literal["in_turn", "parallel", "parallel_one_norm"]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A mixer of tokens, then an FFN. What each gives is added to the residual stream."""

    mixer: TokenMixer | None
    """Attention, or what the layer has in its place; None for a layer that is an FFN alone."""
    ffn: FfnSpec | None
    """The dense FFN; None for a layer without."""
    norm: NormSpec
    """The norms of the residual stream, over `hidden_size`."""
    experts: ExpertsSpec | None = None
    """The sparse FFN. Beside a dense one, each of both has norms of its own, before and after; the norm
    after the FFN is for their sum."""
    pre_norms: bool = True
    """Norms before the mixer and before the FFN."""
    post_norms: bool = False
    """Norms after the mixer and after the FFN, before the sum with the residual."""
    flow: Flow = "in_turn"
    """The FFN reads the residual stream that the mixer has been added to; or the same as the mixer, by a
    norm of its own or by the mixer's."""
    is_scaled: bool = False
    """It ends with a stored number that the residual stream is multiplied by. It needs `post_norms`."""

    def __post_init__(self) -> None:
        # The kernels of experts read the residual stream that attention has been added to.
        assert self.flow == "in_turn" or (self.mixer and self.ffn and not self.experts)
        assert not self.post_norms or (self.mixer and self.has_ffn)

    @property
    def attention(self) -> AttentionSpec | None:
        """Its attention, also beside something else; None for a layer without, or with another kind."""
        if isinstance(self.mixer, AttentionAndMamba2Spec):
            return self.mixer.attention
        return self.mixer if isinstance(self.mixer, AttentionSpec) else None

    @property
    def has_ffn(self) -> bool:
        return self.ffn is not None or self.experts is not None

    @property
    def cached_shape(self) -> AttentionShape | None:
        """The sizes of what it has in the KV cache; None if it has nothing there of its own."""
        if self.mixer is None or (self.attention and self.attention.kv_source is not None):
            return None
        return self.mixer.shape

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state; 0 if it has none."""
        return self.mixer.state_floats if self.mixer else 0

    @property
    def norm_roles(self) -> tuple[str, ...]:
        """The roles of its norms of the residual stream."""
        has_own = self.has_ffn and self.flow != "parallel_one_norm"
        norms = {
            "attention_norm": self.pre_norms and self.mixer is not None,
            "ffn_norm": self.pre_norms and has_own,
            "post_attention_norm": self.post_norms,
            "post_ffn_norm": self.post_norms,
        }
        return tuple(role for role, has_norm in norms.items() if has_norm)

    @property
    def ffn_input_norm(self) -> str:
        """The role of the norm that the FFN reads, if there is one."""
        return "attention_norm" if self.flow == "parallel_one_norm" else "ffn_norm"

    def tensors(self, prefix: str, hidden: int, names: WeightNames) -> Iterator[TensorSpec]:
        """Its tensors; a linear map's role is followed by its `<role>_bias`."""
        for part in (self.mixer, self.ffn, self.experts):
            if part is not None:
                yield from part.tensors(prefix, hidden)
        if self.experts and self.ffn:
            yield from self.experts.norm_tensors(prefix, hidden)
        for role in self.norm_roles:
            name = f"{prefix}{getattr(names, role)}.weight"
            yield from self.norm.tensors(role, name, hidden)
        if self.is_scaled:
            yield TensorSpec("layer_scale", f"{prefix}{names.layer_scale}", (1,))
