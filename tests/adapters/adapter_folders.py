"""Adapters and models of a few numbers, written as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Q_PROJ = "model.layers.0.self_attn.q_proj"
V_PROJ = "model.layers.0.self_attn.v_proj"
SHAPES = {Q_PROJ: (6, 4), V_PROJ: (2, 4)}
"""The matrices [out, in] of the model that `make_model` writes."""


def tensors_of(
    shapes: dict[str, tuple[int, int]] = SHAPES, rank: int = 2, dtype: Any = np.float32
) -> dict[str, NDArray[Any]]:
    """Both tensors of each module, all of them ones."""
    tensors: dict[str, NDArray[Any]] = {}
    for module, (wide, narrow) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ones((rank, narrow), dtype)
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ones((wide, rank), dtype)
    return tensors


def make_adapter(
    folder: Path, tensors: dict[str, NDArray[Any]] | None = None, **options: Any
) -> Path:
    """An adapter of `make_model`'s model; `options` go over those of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of() if tensors is None else tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "someone/small",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        **options,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make_model(folder: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A model's folder with one `.weight` for each module."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{module}.weight": np.zeros(shape, np.float32)
        for module, shape in (shapes or SHAPES).items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder
