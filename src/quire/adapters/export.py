"""Writes an adapter as one plain LoRA folder, for engines that read folders themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from quire.adapters.folder import Adapter, read_tensors
from quire.adapters.lora_config import CONFIG_FILE
from quire.adapters.weights import WEIGHTS_FILE, Floats, LoraPair


def write_lora_folder(adapter: Adapter, folder: Path) -> None:
    """Write the pairs of an adapter, or of the parts of a sum, with a scaling of 1.

    The parts' A matrices stand above each other, and their B matrices beside each other, so that one
    product is the sum of theirs. Every pair has the rank of the whole, filled up with zeros: vLLM
    reads one rank for all modules.

    Raises:
        AdapterError: a file is not what it was when it was checked.
    """
    gathered: dict[str, tuple[str, list[LoraPair]]] = {}
    for part in adapter.parts or (adapter,):
        for module, pair in read_tensors(part).pairs.items():
            # Parts that were trained with different classes may name one module differently.
            stored = part.stored_names.get(module, module)
            gathered.setdefault(stored, (module, []))[1].append(pair)
    tensors: dict[str, Floats] = {}
    for module, pairs in gathered.values():
        a = np.concatenate([pair.a for pair in pairs])
        b = np.concatenate([pair.b for pair in pairs], axis=1)
        missing = adapter.rank - len(a)
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = np.pad(a, ((0, missing), (0, 0)))
        tensors[f"{name}.lora_B.weight"] = np.pad(b, ((0, 0), (0, missing)))
    save_file(tensors, folder / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "target_modules": sorted({module.rpartition(".")[2] for module, _ in gathered.values()}),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
