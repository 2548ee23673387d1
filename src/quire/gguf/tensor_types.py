"""The types of tensors in GGUF files: how many weights a block has, and how many bytes.

The numbers are those of the format (ggml's `ggml_type`). `blocks` says what the bytes of a block mean.
"""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """One type: its name, the weights of a block, and the bytes of one."""

    name: str
    weights: int
    bytes: int


TENSOR_TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}

_BY_NAME = {kind.name: kind for kind in TENSOR_TYPES.values()}


def type_named(name: str) -> TensorType:
    """The type of a name."""
    return _BY_NAME[name]


_REPACKED = "weights that an old llama.cpp had put in another order"
REFUSED_TYPES: dict[int, tuple[str, str]] = {
    4: ("Q4_2", "a type that llama.cpp removed in 2023"),
    5: ("Q4_3", "a type that llama.cpp removed in 2023"),
    9: ("Q8_1", "a type of activations and not of weights"),
    15: ("Q8_K", "a type of activations and not of weights"),
    31: ("Q4_0_4_4", f"{_REPACKED}: take the model's Q4_0"),
    32: ("Q4_0_4_8", f"{_REPACKED}: take the model's Q4_0"),
    33: ("Q4_0_8_8", f"{_REPACKED}: take the model's Q4_0"),
    36: ("IQ4_NL_4_4", f"{_REPACKED}: take the model's IQ4_NL"),
    37: ("IQ4_NL_4_8", f"{_REPACKED}: take the model's IQ4_NL"),
    38: ("IQ4_NL_8_8", f"{_REPACKED}: take the model's IQ4_NL"),
}
"""Types that no file should hold: their names, and what they are."""
