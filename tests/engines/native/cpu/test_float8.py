"""Folders of 8-bit floats on the CPU: to the bit what the same weights are in float32, as transformers has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.weights.decoder import in_huge_pages, load_weights
from quire.engines.native.cpu.weights.float8 import Float8Weight
from quire.engines.native.models.registry import read_spec
from quire.errors import ConfigError, WeightsError
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids, table_of
from tests.engines.native.random_adapters import checked, load_peft, make_random_adapter
from tests.engines.native.random_float8 import BLOCKS, make_float8_model
from tests.engines.native.random_models import load_oracle

LENGTH = 130
IDS = random_ids(LENGTH)
Load = Callable[..., CpuRunner]
Folders = tuple[Path, Path]

# No size is a multiple of 128, and most matrices have several blocks of both kinds.
_WIDE = {"hidden_size": 208, "intermediate_size": 300, "vocab_size": 304}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "latent attention": (
        "deepseek_v3",
        {**_WIDE, "moe_intermediate_size": 136, "kv_lora_rank": 144, "q_lora_rank": 140},
    ),
    "dense": ("qwen3", {**_WIDE, "num_attention_heads": 6, "head_dim": 32}),
    "experts": ("qwen3_moe", {**_WIDE, "moe_intermediate_size": 140}),
    "corrected experts": ("minimax_m2", {"hidden_size": 208, "intermediate_size": 140}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folders]:
    """A folder of one of `KINDS`, and the same multiplied out."""
    made: dict[str, Folders] = {}

    def get(name: str) -> Folders:
        if name not in made:
            kind, overrides = KINDS[name]
            made[name] = make_float8_model(tmp_path_factory.mktemp("float8"), kind, **overrides)
        return made[name]

    return get


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_the_weights_multiplied_out(
    name: str, folders: Callable[[str], Folders], load: Load
) -> None:
    packed, full = folders(name)
    with torch.inference_mode():
        wanted = load_oracle(full)(torch.tensor([IDS])).logits[0].numpy()
    found = logits_of(load(packed), IDS)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    np.testing.assert_array_equal(found, logits_of(load(full), IDS))


@pytest.mark.parametrize("name", ["latent attention", "experts"])
def test_batch_invariance(name: str, folders: Callable[[str], Folders], load: Load) -> None:
    """Alone, in chunks, in company, and with any number of threads."""
    packed, other = folders(name)[0], random_ids(33, seed=5)
    whole = logits_of(load(packed), IDS)
    for threads in (2, 3, 16):
        runner = load(packed, num_threads=threads)
        np.testing.assert_array_equal(logits_of(runner, IDS), whole)
        np.testing.assert_array_equal(logits_of(runner, IDS, [7, 64, 1, 1, 30]), whole)
    runner = load(packed, num_threads=2)
    alone = logits_of(runner, other)
    batch = make_batch([(other, 0, table_of(33, 20)), (IDS, 0, table_of(LENGTH))])
    np.testing.assert_array_equal(runner.run(batch), np.concatenate([alone, whole]))


def test_weights_stay_in_the_file(folders: Callable[[str], Folders]) -> None:
    """Eight bits each: but for the maps of keys, which are computed with on their side."""
    weights = load_weights(
        read_spec(folders("latent attention")[0]), folders("latent attention")[0]
    )
    for layer in weights.layers:
        matrices = {role: one for role, one in layer.items() if len(one.shape) == 2}
        plain = {role for role, one in matrices.items() if not isinstance(one, Float8Weight)}
        assert plain - {"router"} == {f"k.{head}" for head in range(4)}
        for one in matrices.values():
            if isinstance(one, Float8Weight):
                assert one.codes.dtype == np.uint8
                assert not one.codes.flags.owndata
                assert one.nbytes < 1.2 * one.codes.size


FORMS: dict[str, tuple[dict[str, Any], tuple[int, int] | None, str]] = {
    "one scale": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        None,
        "weight_scale_inv",
    ),
    "one scale a column": ({"quant_method": "fbgemm_fp8"}, (1, 1000), "weight_scale"),
    "other blocks": ({**BLOCKS, "weight_block_size": [64, 192]}, (64, 192), "weight_scale_inv"),
    "small blocks": ({**BLOCKS, "weight_block_size": [5, 40]}, (5, 40), "weight_scale_inv"),
}


def compressed(**weights: Any) -> dict[str, Any]:
    """The settings of compressed-tensors for 8-bit floats."""
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "float", "symmetric": True, **weights},
        "input_activations": {"num_bits": 8, "type": "float", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


FORMS |= {
    "compressed columns": (compressed(strategy="channel"), (1, 1000), "weight_scale"),
    "compressed tensor": (compressed(strategy="tensor"), None, "weight_scale"),
    "compressed blocks": (
        compressed(strategy="block", block_structure=[128, 128]),
        (128, 128),
        "weight_scale",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms(name: str, tmp_path: Path, load: Load) -> None:
    settings, block, scales = FORMS[name]
    packed, full = make_float8_model(
        tmp_path, "qwen3", settings, block=block, scales=scales, hidden_size=208, head_dim=32
    )
    runner = load(packed)
    np.testing.assert_array_equal(logits_of(runner, IDS), logits_of(load(full), IDS))
    kinds = {
        type(one)
        for layer in load_weights(read_spec(packed), packed).layers
        for one in layer.values()
    }
    assert (Float8Weight in kinds) == (name != "small blocks")


def test_powers_of_two_as_scales(tmp_path: Path, load: Load) -> None:
    """Of eight bits too: DeepSeek's `ue8m0`."""
    packed, full = make_float8_model(tmp_path, "qwen3", {**BLOCKS, "scale_fmt": "ue8m0"})
    stored, plain = (load_file(one / "model.safetensors") for one in (packed, full))
    for name in [one for one in stored if one.endswith("weight_scale_inv")]:
        power = torch.exp2(torch.log2(stored[name]).ceil())
        stored[name] = power.to(torch.float8_e8m0fnu)
        weight = name.removesuffix("_scale_inv")
        plain[weight] = stored[weight].float() * power
    save_file(stored, packed / "model.safetensors")
    save_file(plain, full / "model.safetensors")
    np.testing.assert_array_equal(logits_of(load(packed), IDS), logits_of(load(full), IDS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats_on_request(dtype: Any, folders: Callable[[str], Folders], load: Load) -> None:
    packed, full = folders("dense")
    found = logits_of(load(packed, dtype=dtype), IDS)
    np.testing.assert_array_equal(found, logits_of(load(full, dtype=dtype), IDS))


def test_huge_pages(folders: Callable[[str], Folders], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.engines.native.cpu.memory.arrays.LEAST", 1)
    monkeypatch.setattr("quire.engines.native.cpu.weights.decoder.has_huge_pages", lambda: True)
    weights = load_weights(read_spec(folders("dense")[0]), folders("dense")[0])
    copied = in_huge_pages(weights)
    before, after = (one.layers[0]["down"] for one in (weights, copied))
    assert not np.may_share_memory(before.codes, after.codes)
    np.testing.assert_array_equal(before.codes, after.codes)
    np.testing.assert_array_equal(before.scales, after.scales)
    assert not copied.files


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_adapters(name: str, folders: Callable[[str], Folders], tmp_path: Path, load: Load) -> None:
    """On the folder of 8-bit floats, peft's answers on the same multiplied out."""
    packed, full = folders(name)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"] + ["down_proj"] * (name == "dense")
    adapter = make_random_adapter(tmp_path / "adapter", full, target_modules=modules)
    with torch.inference_mode():
        wanted = load_peft(full, adapter)(torch.tensor([IDS])).logits[0].numpy()
    runner = load(packed)
    base = logits_of(runner, IDS)
    found = logits_of(runner, IDS, adapter=runner.load_adapter(checked(adapter, packed)))
    np.testing.assert_allclose(found, wanted, atol=5e-4)
    assert np.abs(found - base).max() > 0.1


# ---- what is refused

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def _nan(tensors: dict[str, Any]) -> None:
    tensors[WEIGHT].view(torch.uint8)[5, 70] = 0xFF


def _infinite_scale(tensors: dict[str, Any]) -> None:
    tensors[f"{WEIGHT}_scale_inv"][1, 2] = torch.inf


def _large_scale(tensors: dict[str, Any]) -> None:
    tensors[f"{WEIGHT}_scale_inv"][1, 2] = 3e38


def _drop_scales(tensors: dict[str, Any]) -> None:
    del tensors[f"{WEIGHT}_scale_inv"]


def _cut_scales(tensors: dict[str, Any]) -> None:
    tensors[f"{WEIGHT}_scale_inv"] = tensors[f"{WEIGHT}_scale_inv"][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_nan, r"layers\.1\.mlp\.down_proj\.weight holds NaN"),
        (_infinite_scale, "down_proj.weight_scale_inv holds infinities or NaN"),
        (_large_scale, "down_proj.weight: A scale of the weights is too large"),
        (_drop_scales, "lack .*down_proj.weight_scale_inv"),
        (_cut_scales, r"down_proj.weight_scale_inv has shape \(2, 2\); .* ask for \(2, 3\)"),
    ],
)
def test_damaged_folders(
    change: Callable[[dict[str, Any]], None],
    text: str,
    folders: Callable[[str], Folders],
    tmp_path: Path,
) -> None:
    packed = folders("dense")[0]
    tensors = load_file(packed / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((packed / "config.json").read_bytes())
    with pytest.raises(WeightsError, match=text):
        load_weights(read_spec(tmp_path), tmp_path)


def test_they_are_not_rounded_once_more(folders: Callable[[str], Folders], load: Load) -> None:
    with pytest.raises(ConfigError, match=r"native_quantization int8.*fp8"):
        load(folders("dense")[0], quantize="int8")
