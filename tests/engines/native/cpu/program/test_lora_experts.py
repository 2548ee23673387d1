"""Adapters of experts: in one parameter, or of each expert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from quire.errors import AdapterError
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_adapters import LINEARS, checked, make_random_adapter
from tests.engines.native.random_models import make_random_model

FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("fused", [False, True])
def test_pairs_of_each_expert(fused: bool, load: Any, tmp_path: Path) -> None:
    """As adapters of older folders have them: the same as one of the parameters of all experts."""
    model = make_random_model(tmp_path / "model", "qwen3_moe", fused_experts=fused)
    whole = make_random_adapter(
        tmp_path / "whole", model, target_modules=[], target_parameters=FUSED, r=2
    )
    apart = _with_experts_apart(whole, tmp_path / "apart", count=20)
    runner, ids = load(model), random_ids(60)
    found = logits_of(runner, ids, adapter=runner.load_adapter(checked(whole, model)))
    if fused:
        with pytest.raises(AdapterError, match=r"experts\.0\.down_proj, which is no module"):
            checked(apart, model)
        return
    again = logits_of(runner, ids, adapter=runner.load_adapter(checked(apart, model)))
    np.testing.assert_array_equal(again, found)


def _with_experts_apart(adapter: Path, folder: Path, *, count: int) -> Path:
    """The adapter with modules of their own for the maps of each expert."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    made: dict[str, NDArray[Any]] = {}
    for name, a in tensors.items():
        if ".lora_B." in name:
            continue
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        prefix = name.partition(".lora_A.")[0].replace(".base_layer", "")
        rank, half = len(a) // count, len(b) // 2
        maps = {"gate_proj": b[:half], "up_proj": b[half:]} if len(b) == 72 else {"down_proj": b}
        for expert in range(count):
            for role, rows in maps.items():
                module = f"{prefix}.{expert}.{role}"
                own = a[expert * rank : (expert + 1) * rank]
                made[f"{module}.lora_A.weight"] = np.ascontiguousarray(own)
                made[f"{module}.lora_B.weight"] = np.ascontiguousarray(rows[:, expert::count])
    folder.mkdir()
    save_file(made, folder / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"target_parameters": None, "target_modules": LINEARS[4:]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_other_experts(load: Any, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "qwen3_moe")
    cases: dict[str, dict[str, Any]] = {
        "count": {"num_experts": 7},
        "size": {"moe_intermediate_size": 16},
    }
    for name, changes in cases.items():
        other = make_random_model(tmp_path / name, "qwen3_moe", **changes)
        adapter = make_random_adapter(
            tmp_path / f"adapter_{name}", other, target_modules=[], target_parameters=FUSED
        )
        with pytest.raises(
            AdapterError, match=r"model has 20 experts of shape \[(72, 64|64, 36)\]"
        ):
            load(model).load_adapter(checked(adapter, model))
