"""Random folders whose matrices are 8-bit floats, and the same multiplied out by torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.engines.native.random_models import make_random_model

BLOCKS: dict[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
}
"""DeepSeek's settings."""
PLAIN = ("embed_tokens", "lm_head", "mlp.gate.weight", "norm")
"""What folders of this kind leave as it is, by parts of the names."""


def make_float8_model(
    folder: Path,
    kind: str,
    settings: dict[str, Any] = BLOCKS,
    *,
    block: tuple[int, int] | None = (128, 128),
    scales: str = "weight_scale_inv",
    plain: tuple[str, ...] = PLAIN,
    **overrides: Any,
) -> tuple[Path, Path]:
    """Write a folder of 8-bit floats, and one with what they stand for in float32; return both.

    Without a block, a matrix has one scale for all its weights.
    """
    full = make_random_model(folder / "full", kind, **overrides)
    tensors = load_file(full / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    for name, values in tensors.items():
        stored[name] = values
        if values.ndim != 2 or any(part in name for part in plain):
            continue
        codes, own = quantise(values, block)
        stored[name], stored[name.replace("weight", scales)] = codes, own
        tensors[name] = multiplied_out(codes, own, block)
    save_file(tensors, full / "model.safetensors", {"format": "pt"})
    packed = folder / "float8"
    packed.mkdir()
    config = json.loads((full / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    return packed, full


def quantise(
    values: torch.Tensor, block: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, and the scales by which the largest weight of each block becomes 448."""
    rows, columns = values.shape
    if block is None:
        scale = values.abs().max() / 448
        return (values / scale).to(torch.float8_e4m3fn), scale
    height, width = block
    padded = torch.nn.functional.pad(values, (0, -columns % width, 0, -rows % height))
    parts = padded.unflatten(1, (-1, width)).unflatten(0, (-1, height))
    scales = parts.abs().amax(dim=(1, 3)) / 448
    spread = spread_out(scales, values.shape, block)
    return (values / spread).clamp(-448, 448).to(torch.float8_e4m3fn), scales


def spread_out(
    scales: torch.Tensor, shape: torch.Size, block: tuple[int, int] | None
) -> torch.Tensor:
    """The scale of each weight."""
    if block is None:
        return scales.expand(shape)
    wide = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def multiplied_out(
    codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int] | None
) -> torch.Tensor:
    """The weights in float32."""
    return (codes.float() * spread_out(scales, codes.shape, block)).contiguous()
