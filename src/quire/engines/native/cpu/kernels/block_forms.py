"""How weights of GGUF's block types lie in memory for the kernels, by type.

A row is cut into spans of 32 depths. Of each span, 16 columns lie together, in this order of bytes:

    8 bits   [8 steps][16 columns][4 depths], one byte a weight
    4 bits   [4 steps][16 columns][4 depths], two weights in a byte: of step i, depth 8 i + j in the
             lower half, 8 i + 4 + j in the upper
    5 bits   as 4 bits, then [16 columns][4 depths]: bit g of a byte is the fifth bit of depth 4 g + j
    6 bits   as 4 bits, then two times [16 columns][4 depths]: two bits each of depth 4 g + j, g from 0
             to 3 in the first and from 4 to 7 in the second

The weight is `scale * (code - middle)`, or `scale * code - minimum`. Scales and minimums are

    half     float16, one for each span and column
    single   float32, likewise
    nested   an integer of 8 bits for each span and column, times a float16 of 8 spans

in arrays (blocks of 16 columns, spans, 16); `nested` ones have the float16 in (blocks, 8 spans, 16).
With `halved`, there are two scales (and minimums) of a span, one for each 16 depths.

Nothing here needs a kernel, so that a start with compiled kernels imports none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPAN = 32  # depths whose activations share a scale
SUPER_SPANS = 8  # spans that share the float16 of nested scales
COLUMNS = 16  # that are stored together

Scales = Literal["half", "single", "nested"]


@dataclass(frozen=True, slots=True)
class BlockForm:
    """How one type of blocks is kept and multiplied."""

    bits: Literal[4, 5, 6, 8]
    scales: Scales = "half"
    middle: int = 0
    """What is subtracted from every code."""
    minimums: bool = False
    """Whether a minimum is subtracted from every weight; its kind is that of the scales."""
    signed: bool = False
    """Whether nested scales are signed."""
    halved: bool = False
    levels: tuple[int, ...] = ()
    """What the 16 codes of 4 bits stand for, before `middle` is subtracted; empty for themselves."""

    @property
    def span_bytes(self) -> int:
        """Bytes of the codes of a span of 16 columns."""
        return COLUMNS * SPAN * self.bits // 8

    @property
    def parts(self) -> int:
        """How many scales a span has."""
        return 2 if self.halved else 1

    @property
    def scale_bytes(self) -> int:
        """Bytes of one scale in its array."""
        return {"half": 2, "single": 4, "nested": 1}[self.scales]

    @property
    def kinds(self) -> int:
        """1 for scales alone, 2 with minimums."""
        return 1 + self.minimums

    @property
    def factor_bytes(self) -> int:
        """Bytes of the scales and minimums of a span of 16 columns."""
        return self.kinds * self.parts * COLUMNS * self.scale_bytes

    @property
    def super_bytes(self) -> int:
        """Bytes of the float16 of 8 spans of 16 columns."""
        return self.kinds * COLUMNS * 2

    @property
    def largest(self) -> int:
        """The largest number that is multiplied for a code."""
        return max(self.levels) if self.levels else (1 << self.bits) - 1


_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_MXFP4_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

FORMS: dict[str, BlockForm] = {
    "q4_0": BlockForm(4, middle=8),
    "q4_1": BlockForm(4, minimums=True),
    "q5_0": BlockForm(5, middle=16),
    "q5_1": BlockForm(5, minimums=True),
    "q8_0": BlockForm(8, middle=128),
    "q2_k": BlockForm(4, "nested", minimums=True, halved=True),
    "q3_k": BlockForm(4, "nested", middle=4, signed=True, halved=True),
    "q4_k": BlockForm(4, "nested", minimums=True),
    "q5_k": BlockForm(5, "nested", minimums=True),
    "q6_k": BlockForm(6, "nested", middle=32, signed=True, halved=True),
    "iq4_nl": BlockForm(4, middle=128, levels=tuple(128 + level for level in _IQ4_LEVELS)),
    "iq4_xs": BlockForm(
        4, "nested", middle=128, signed=True, levels=tuple(128 + level for level in _IQ4_LEVELS)
    ),
    "mxfp4": BlockForm(4, "single", middle=12, levels=tuple(12 + level for level in _MXFP4_LEVELS)),
    "codebook": BlockForm(8, "single", middle=128, halved=True),  # the other types of IQ, looked up
}
"""The forms by name. Those of a type have its name; `codebook` serves every other type."""

PACKED_BY_KERNELS = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "mxfp4"
)  # fmt: skip
"""The types whose blocks a kernel packs: see `block_packing`."""
