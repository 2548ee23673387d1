"""Mamba-2: a state space model in place of attention, whose state does not grow with the text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from quire.engines.native.models.layers.attention import AttentionShape, AttentionSpec
from quire.engines.native.models.layers.mixer import StateMixer
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Mamba2Spec(StateMixer):
    """`z, x, b, c, dt = in(h)`; x, b and c go through a causal convolution with SiLU.

    Then each head has a state that decays and takes up x, by b and dt, and is read by c: see
    `kernels.mamba2`. What is read goes through a norm and the gate z, and then through `o`.
    """

    heads: int
    head_dim: int
    groups: int
    """Heads of a group share b and c."""
    state_size: int
    """Of b and c of a group."""
    width: int
    """How many tokens the convolution is over."""
    norm_eps: float
    conv_bias: bool = True
    in_bias: bool = False
    out_bias: bool = False
    norm_groups: int = 1
    """The RMS norm is over each of so many parts; 0 for no norm."""
    gates_last: bool = False
    """The gate comes after the norm."""
    step_limits: tuple[float, float] = (0.0, math.inf)
    """The least and the largest step, which is softplus(dt + dt_bias)."""
    out_scale: float = 1.0
    """What is read is multiplied by it, after norm and gate."""
    multipliers: tuple[float, ...] = ()
    """What z, x, b, c and dt are multiplied by; empty for nothing."""
    prefix: str = "mamba."
    """Before the names of its tensors in a layer."""
    out_role: str = "o"

    @property
    def inner(self) -> int:
        """The numbers of x, of z, and of what is read."""
        return self.heads * self.head_dim

    @property
    def parts(self) -> tuple[int, int, int, int, int]:
        """The sizes of z, x, b, c and dt."""
        shared = self.groups * self.state_size
        return self.inner, self.inner, shared, shared, self.heads

    @property
    def conv_channels(self) -> int:
        """x, b and c."""
        return sum(self.parts[1:4])

    @property
    def conv_floats(self) -> int:
        """The part of the state that is the convolution's: its last inputs."""
        return (self.width - 1) * self.conv_channels

    @property
    def state_floats(self) -> int:
        """The convolution's last inputs, then each head's (state_size, head_dim)."""
        return self.conv_floats + self.inner * self.state_size

    @property
    def out_size(self) -> int:
        """One number for each of x."""
        return self.inner

    @property
    def widths(self) -> Mapping[str, int]:
        """z, x, b, c and dt are beside each other in `gate`."""
        return {"gate": sum(self.parts)}

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`in`, `conv` (channels, 1, width) and `o`, which may have biases; `dt_bias`, `a_log` and `d`
        of each head; and `gate_norm`.
        """
        own = f"{prefix}{self.prefix}"
        for role, name, shape, bias in (
            ("in", "in_proj", (sum(self.parts), hidden), self.in_bias),
            ("conv", "conv1d", (self.conv_channels, 1, self.width), self.conv_bias),
            (self.out_role, "out_proj", (hidden, self.inner), self.out_bias),
        ):
            yield TensorSpec(role, f"{own}{name}.weight", shape)
            if bias:
                yield TensorSpec(f"{role}_bias", f"{own}{name}.bias", shape[:1])
        for role, name in (("dt_bias", "dt_bias"), ("a_log", "A_log"), ("d", "D")):
            yield TensorSpec(role, f"{own}{name}", (self.heads,))
        if self.norm_groups:
            yield TensorSpec("gate_norm", f"{own}norm.weight", (self.inner,))


@dataclass(frozen=True, slots=True)
class AttentionAndMamba2Spec:
    """Attention and Mamba-2 beside each other: both read one norm, and both are added to the residual."""

    attention: AttentionSpec
    mamba: Mamba2Spec
    """Its output map has the role `ssm_o`."""

    @property
    def shape(self) -> AttentionShape:
        return self.attention.shape

    @property
    def rope(self) -> RopeSpec | None:
        return self.attention.rope

    @property
    def rope_dim(self) -> int:
        return self.attention.rope_dim

    @property
    def state_floats(self) -> int:
        """That of Mamba-2."""
        return self.mamba.state_floats

    @property
    def out_size(self) -> int:
        """What attention gives."""
        return self.attention.out_size

    @property
    def widths(self) -> Mapping[str, int]:
        """Those of both; `up` holds what Mamba-2 gives."""
        return {**self.attention.widths, **self.mamba.widths, "up": self.mamba.inner}

    def with_rope(self, rope: RopeSpec | None) -> AttentionAndMamba2Spec:
        return replace(self, attention=self.attention.with_rope(rope))

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """Those of attention, then those of Mamba-2."""
        yield from self.attention.tensors(prefix, hidden)
        yield from self.mamba.tensors(prefix, hidden)
