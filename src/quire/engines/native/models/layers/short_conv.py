"""LFM2's short convolution: the last few tokens mixed channel by channel, between two gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quire.engines.native.models.layers.mixer import StateMixer
from quire.engines.native.models.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ShortConvSpec(StateMixer):
    """`b, c, x = in(h)`, and `o(c * conv(b * x))` with a causal convolution over each channel."""

    channels: int
    width: int
    """How many tokens a sum is over, with its own."""
    bias: bool = False
    """Biases of all three maps."""
    prefix: str = "conv."
    """Before the names of its tensors in a layer."""

    @property
    def state_floats(self) -> int:
        """The last inputs of the convolution."""
        return (self.width - 1) * self.channels

    @property
    def out_size(self) -> int:
        """One number a channel."""
        return self.channels

    @property
    def widths(self) -> Mapping[str, int]:
        """b, c and x are beside each other in `gate`."""
        return {"gate": 3 * self.channels}

    def tensors(self, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`in`, `conv` (channels, 1, width) and `o`, each with its bias if there are biases."""
        for role, name, shape in (
            ("in", "in_proj", (3 * self.channels, hidden)),
            ("conv", "conv", (self.channels, 1, self.width)),
            ("o", "out_proj", (hidden, self.channels)),
        ):
            own = f"{prefix}{self.prefix}{name}"
            yield TensorSpec(role, f"{own}.weight", shape)
            if self.bias:
                yield TensorSpec(f"{role}_bias", f"{own}.bias", shape[:1])
