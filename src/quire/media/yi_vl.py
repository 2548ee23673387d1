"""Yi-VL's checkpoints: LLaVA's architecture and names with another projector; how they are known.

The projector is linear, layer norm, GELU, linear, layer norm (`linear_1` to `linear_4`), where
LLaVA's has `linear_1` and `linear_2` with an activation between.
"""

from __future__ import annotations

from collections.abc import Mapping

DECLARATION = "is_yi_vl_derived_model"
"""The key of `config.json` that says so."""

PROJECTOR = "multi_modal_projector."
"""What the names of the projector's weights begin with."""

NORMS = ("linear_2.weight", "linear_4.weight")


def is_yi_vl(declared: object, dimensions: Mapping[str, int]) -> bool:
    """Whether a checkpoint is Yi-VL's, by its config or by its weights.

    Args:
        declared: the value of `DECLARATION` in its config.
        dimensions: how many the projector's weights have, by what follows `PROJECTOR` in their
            names. Those of `NORMS` have one in Yi-VL's.
    """
    return bool(declared) or all(dimensions.get(name) == 1 for name in NORMS)
