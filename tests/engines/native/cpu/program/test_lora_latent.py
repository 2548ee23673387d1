"""Adapters of latent attention, whose maps are applied head by head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.adapters.folder import read_adapter
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.registry import read_spec
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_adapters import checked, load_peft, make_random_adapter
from tests.engines.native.random_models import make_random_model, of_torch

LENGTH = 100


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("deepseek_v3", ["kv_b_proj"]),
        ("deepseek_v2", ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "down_proj"]),
        ("glm4_moe_lite", "all-linear"),
        ("youtu", "all-linear"),
        (
            "kimi_linear",
            ["q_proj", "k_proj", "v_proj", "o_proj", "b_proj", "g_a_proj", "g_b_proj", "kv_b_proj"],
        ),
        ("youtu_full_queries", "all-linear"),
        ("minicpm3", ["q_a_proj", "q_b_proj", "kv_b_proj"]),
    ],
)
def test_latent_attention(kind: str, modules: Any, load: Any, tmp_path: Path) -> None:
    """What makes keys and values of latents is never multiplied with: its parts are, head by head."""
    model = make_random_model(tmp_path / "model", kind)
    adapter = make_random_adapter(
        tmp_path / "adapter", model, target_modules=modules, use_rslora=True
    )
    ids = random_ids(LENGTH)
    wanted = of_torch(load_peft(model, adapter), ids)
    runner = load(model)
    loaded = runner.load_adapter(checked(adapter, model))
    found = logits_of(runner, ids, adapter=loaded)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    base = logits_of(runner, ids)
    assert np.abs(found - base).max() > 0.05
    for threads in (2, 5):
        other = load(model, num_threads=threads)
        again = logits_of(
            other, ids, [7, 64, 1], adapter=other.load_adapter(read_adapter(adapter, extended=True))
        )
        np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_latent_attention_rounded_at_load(
    kind: Any, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps of heads are rounded, and so are their rows; what the adapter adds to them is not."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    model = make_random_model(tmp_path / "model", "youtu")
    layer = load_weights(read_spec(model), model, quantize=kind).layers[1]
    assert all(isinstance(layer[role], PackedMatrix) for role in ("k.0", "k.3", "v.0", "v.3"))
    path = make_random_adapter(tmp_path / "adapter", model, target_modules=["kv_b_proj"])
    ids, found = random_ids(LENGTH), dict[Any, Any]()
    for name in (None, kind):
        runner = load(model, quantize=name, num_threads=3)
        adapter = runner.load_adapter(checked(path, model))
        for own in (None, adapter):
            logits = found[name, own is None] = logits_of(runner, ids, adapter=own)
            chunked = logits_of(runner, ids, [7, 64, 1], adapter=own)
            np.testing.assert_array_equal(chunked, logits)
    most = 0.1 if kind == "int8" else 1
    for is_base in (True, False):
        full, rounded = (found[name, is_base] for name in (None, kind))
        errors = np.sqrt(np.mean((rounded - full) ** 2, axis=-1))
        assert 0 < np.median(errors) < most * full.std()
    change, of_rounded = (found[name, False] - found[name, True] for name in (None, kind))
    assert np.corrcoef(change.ravel(), of_rounded.ravel())[0, 1] > (0.97 if kind == "int8" else 0.8)


def test_heads_share_a_matrix(load: Any, tmp_path: Path) -> None:
    """An adapter of latent attention takes little more memory than its file."""
    model = make_random_model(tmp_path / "model", "deepseek_v3", kv_lora_rank=512)
    adapter = make_random_adapter(tmp_path / "adapter", model, target_modules=["kv_b_proj"], r=16)
    loaded = load(model).load_adapter(checked(adapter, model))
    size = (adapter / "adapter_model.safetensors").stat().st_size
    assert size < loaded.nbytes < 2.5 * size
