"""A subclass of vLLM's LLaVA with Yi-VL's projector for Yi-VL's checkpoints.

vLLM imports this module by the name that `plugin.py` registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.models import llava

from quire.media.yi_vl import DECLARATION, PROJECTOR, is_yi_vl

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.model_executor.layers.quantization import QuantizationConfig

    Weights = Iterable[tuple[str, torch.Tensor]]


class YiProjector(nn.Module):
    """Linear, layer norm, GELU, linear, layer norm.

    Layer norms need whole rows, so with tensor parallelism each device holds the full linear layers.
    """

    def __init__(
        self,
        vision_size: int,
        text_size: int,
        dtype: torch.dtype,
        quantization: QuantizationConfig | None,
        prefix: str,
    ) -> None:
        super().__init__()
        linear = partial(ReplicatedLinear, params_dtype=dtype, quant_config=quantization)
        self.linear_1 = linear(vision_size, text_size, prefix=f"{prefix}linear_1")
        self.linear_2 = nn.LayerNorm(text_size, dtype=dtype)
        self.act = nn.GELU()
        self.linear_3 = linear(text_size, text_size, prefix=f"{prefix}linear_3")
        self.linear_4 = nn.LayerNorm(text_size, dtype=dtype)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From `(..., vision_size)` to `(..., text_size)`."""
        hidden, _ = self.linear_1(features)
        hidden, _ = self.linear_3(self.act(self.linear_2(hidden)))
        return self.linear_4(hidden)


class LlavaForConditionalGeneration(llava.LlavaForConditionalGeneration):
    """Named like vLLM's own class, since vLLM shows the name in its messages."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._yi_projector = partial(
            YiProjector,
            self.config.vision_config.hidden_size,
            self.config.text_config.hidden_size,
            vllm_config.model_config.dtype,
            vllm_config.quant_config,
            f"{prefix}.{PROJECTOR}" if prefix else PROJECTOR,
        )
        self._device = torch.get_default_device()
        if is_yi_vl(getattr(self.config, DECLARATION, None), {}):
            self._take_yi_projector()

    def load_weights(self, weights: Weights) -> set[str]:
        """Load a checkpoint's weights, the projector's last: their shapes show which projector it is."""
        if isinstance(self.multi_modal_projector, YiProjector):
            return super().load_weights(weights)
        projector: dict[str, torch.Tensor] = {}
        loaded = super().load_weights(_others(weights, projector))
        dimensions = {name.partition(PROJECTOR)[2]: each.ndim for name, each in projector.items()}
        if is_yi_vl(None, dimensions):
            self._take_yi_projector()
        return loaded | super().load_weights(projector.items())

    def _take_yi_projector(self) -> None:
        """Replace vLLM's projector. Where images are disabled there is none, and none is needed."""
        if isinstance(self.multi_modal_projector, llava.LlavaMultiModalProjector):
            with self._device:
                self.multi_modal_projector = self._yi_projector()


def _others(
    weights: Weights, projector: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all weights but the projector's, which are collected in `projector`.

    They are cloned: a loader may reuse the memory of a tensor for the next one.
    """
    for name, weight in weights:
        if name.removeprefix("model.").startswith(PROJECTOR):
            projector[name] = weight.clone()
        else:
            yield name, weight
