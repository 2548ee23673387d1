"""Random gpt-oss folders whose experts are in MXFP4, as OpenAI's are, and the same dequantised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.engines.native.random_models import make_random_model

SETTINGS: dict[str, Any] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
}


def make_mxfp4_model(
    folder: Path, *, dtype: str = "float32", **overrides: Any
) -> tuple[Path, Path]:
    """Write a folder in MXFP4, and one with its weights dequantised by transformers; return both."""
    plain = make_random_model(folder / "plain", "gpt_oss", dtype=dtype, **overrides)
    tensors = load_file(plain / "model.safetensors")
    stored = dict(tensors)
    random = torch.Generator().manual_seed(5)
    for name in [one for one in tensors if one.endswith(("gate_up_proj", "down_proj"))]:
        experts, depth, rows = stored.pop(name).shape
        shape = (experts, rows, depth // 32)
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=random)
        # About as large as trained weights: 2 ** -5 to 2 ** -3 times codes of up to 6.
        scales = torch.randint(122, 125, shape, dtype=torch.uint8, generator=random)
        stored[f"{name}_blocks"], stored[f"{name}_scales"] = blocks, scales
        values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        tensors[name] = values.to(getattr(torch, dtype)).contiguous()
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    packed = folder / "mxfp4"
    packed.mkdir()
    config = json.loads((plain / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": SETTINGS}))
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    return packed, plain
