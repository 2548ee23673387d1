"""gpt-oss on the CPU: experts in MXFP4 beside transformers, which dequantises them, and those in floats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.weights.blocks import PackedBlocks
from quire.engines.native.cpu.weights.decoder import in_huge_pages, load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix, QuantizedKind
from quire.engines.native.models.registry import read_spec
from quire.errors import ConfigError, UnsupportedModelError, WeightsError
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids, table_of
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.random_adapters import checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.engines.native.random_mxfp4 import make_mxfp4_model

LENGTH = 130
Load = Callable[..., CpuRunner]
Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A folder in MXFP4, and the same dequantised."""
    return make_mxfp4_model(tmp_path_factory.mktemp("gpt_oss"))


@pytest.fixture(scope="module")
def wanted(folders: Folders) -> NDArray[np.float32]:
    """transformers' logits."""
    with torch.inference_mode():
        return load_oracle(folders[1])(torch.tensor([random_ids(LENGTH)])).logits[0].numpy()


def errors(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, in parts of what logits differ by."""
    return np.sqrt(np.mean((found - wanted) ** 2, axis=-1)) / wanted.std()


def test_reference(folders: Folders, wanted: NDArray[np.float32]) -> None:
    weights = load_weights(read_spec(folders[1]), folders[1])
    plain = ReferenceRunner(weights, max_model_len=256, num_blocks=16)
    np.testing.assert_allclose(logits_of(plain, random_ids(LENGTH)), wanted, atol=1e-4)


def test_blocks_are_computed_with_unrounded(
    folders: Folders, wanted: NDArray[np.float32], load: Load
) -> None:
    """Exact is transformers' model but for the activations' 16 bits; fast is near it in most rows.

    In some rows two experts are nearly equal, and the rounding decides.
    """
    weights = load_weights(read_spec(folders[0]), folders[0], exact=True)
    kinds = {type(one) for role, one in weights.layers[1].items() if role.startswith("experts")}
    assert kinds == {PackedBlocks, np.ndarray}  # the biases are floats
    ids = random_ids(LENGTH)
    exact = logits_of(load(folders[0], exact=True, kv_dtype="float32"), ids)
    np.testing.assert_allclose(exact, wanted, atol=2e-3)
    fast = logits_of(load(folders[0], kv_dtype="float32"), ids)
    assert 0 < np.median(errors(fast, wanted)) < 0.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_can_be_floats(
    dtype: Any, folders: Folders, wanted: NDArray[np.float32], load: Load
) -> None:
    found = logits_of(load(folders[0], dtype=dtype), random_ids(LENGTH))
    if dtype == "float32":
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    else:
        assert np.median(errors(found, wanted)) < 0.02


@pytest.mark.parametrize("exact", [False, True])
def test_batch_invariance(exact: bool, folders: Folders, load: Load) -> None:
    """Alone, in chunks, in company, and with any number of threads."""
    ids, other = random_ids(LENGTH), random_ids(33, seed=5)
    options: dict[str, Any] = {"exact": exact, "kv_dtype": "float16"}
    whole = logits_of(load(folders[0], **options), ids)
    for threads in (1, 2, 3, 16):
        runner = load(folders[0], num_threads=threads, **options)
        np.testing.assert_array_equal(logits_of(runner, ids), whole)
        np.testing.assert_array_equal(logits_of(runner, ids, [7, 64, 1, 1, 30]), whole)
    runner = load(folders[0], num_threads=2, **options)
    alone = logits_of(runner, other)
    batch = make_batch([(other, 0, table_of(33, 20)), (ids, 0, table_of(LENGTH))])
    np.testing.assert_array_equal(runner.run(batch), np.concatenate([alone, whole]))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounded_at_load(
    kind: QuantizedKind, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of floats, also those that lie on their side; what is kept gives the same."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    folder = make_random_model(tmp_path / "folder", "gpt_oss", dtype="bfloat16")
    weights = load_weights(read_spec(folder), folder, quantize=kind)
    layer = weights.layers[0]
    assert isinstance(layer["experts.3.down"], PackedMatrix)
    assert isinstance(layer["experts.3.gate_bias"], np.ndarray)
    assert isinstance(layer["router"], np.ndarray)
    ids = random_ids(LENGTH)
    found, again = (logits_of(load(folder, quantize=kind), ids) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    full = logits_of(load(folder), ids)
    assert 0 < np.median(errors(found, full)) < (0.1 if kind == "int8" else 1)


def test_blocks_are_not_rounded_once_more(folders: Folders, load: Load) -> None:
    with pytest.raises(ConfigError, match=r"native_quantization int8.*mxfp4"):
        load(folders[0], quantize="int8")


def test_huge_pages_take_the_rest(
    folders: Folders, wanted: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are in them from the start; embeddings and attention are copied."""
    monkeypatch.setattr("quire.engines.native.cpu.memory.arrays.LEAST", 1)
    monkeypatch.setattr("quire.engines.native.cpu.weights.decoder.has_huge_pages", lambda: True)
    weights = load_weights(read_spec(folders[0]), folders[0])
    copied = in_huge_pages(weights)
    for before, after in zip(weights.all_tensors(), copied.all_tensors(), strict=True):
        if isinstance(before, PackedBlocks):
            assert isinstance(after, PackedBlocks)
            assert after.codes is before.codes
        else:
            assert after is not before
            np.testing.assert_array_equal(after, before)
    assert not copied.files


def test_adapters_of_attention(folders: Folders, tmp_path: Path, load: Load) -> None:
    """On the folder in MXFP4, peft's answers on the dequantised one."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = make_random_adapter(tmp_path / "adapter", folders[1], target_modules=modules)
    ids = random_ids(LENGTH)
    with torch.inference_mode():
        wanted = load_peft(folders[1], adapter)(torch.tensor([ids])).logits[0].numpy()
    runner = load(folders[0], exact=True, kv_dtype="float32")
    base = logits_of(runner, ids)
    found = logits_of(runner, ids, adapter=runner.load_adapter(checked(adapter, folders[0])))
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert np.abs(found - base).max() > 0.1


@pytest.mark.parametrize("size", [96, 64])
def test_adapters_of_experts(size: int, tmp_path: Path, load: Load) -> None:
    """peft trains the stacks as bare parameters, which lie on their side, also if they are square."""
    folder = make_random_model(tmp_path / "folder", "gpt_oss", intermediate_size=size)
    stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = make_random_adapter(
        tmp_path / "adapter", folder, target_modules=["q_proj"], target_parameters=stacks
    )
    ids = random_ids(LENGTH)
    with torch.inference_mode():
        wanted = load_peft(folder, adapter)(torch.tensor([ids])).logits[0].numpy()
    runner = load(folder)
    base = logits_of(runner, ids)
    found = logits_of(runner, ids, adapter=runner.load_adapter(checked(adapter, folder)))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert np.abs(found - base).max() > 0.1


def damaged(folders: Folders, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    tensors = load_file(folders[0] / "model.safetensors")
    change(tensors)
    target.mkdir()
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_bytes((folders[0] / "config.json").read_bytes())
    return target


STACK = "model.layers.1.mlp.experts.down_proj"


def _break_scale(tensors: dict[str, Any]) -> None:
    tensors[f"{STACK}_scales"][2, 5, 1] = 255


def _drop_scales(tensors: dict[str, Any]) -> None:
    del tensors[f"{STACK}_scales"]


def _cut_blocks(tensors: dict[str, Any]) -> None:
    tensors[f"{STACK}_blocks"] = tensors[f"{STACK}_blocks"][:, :-1].copy()


def _cut_biases(tensors: dict[str, Any]) -> None:
    tensors[f"{STACK}_bias"] = tensors[f"{STACK}_bias"][:, :-1].copy()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_break_scale, "layers.1.mlp.experts.down_proj has a scale that is NaN or infinite"),
        (_drop_scales, "lack .*down_proj_scales"),
        (_cut_blocks, r"down_proj_blocks is U8 \(6, 63, 3, 16\); .*ask for U8 \(6, 64, 3, 16\)"),
        (_cut_biases, r"down_proj_bias has shape \(6, 63\), config.json asks for \(6, 64\)"),
    ],
)
def test_damaged_folders(
    change: Callable[[dict[str, Any]], None], text: str, folders: Folders, tmp_path: Path
) -> None:
    folder = damaged(folders, tmp_path / "damaged", change)
    with pytest.raises(WeightsError, match=text):
        load_weights(read_spec(folder), folder)


def test_quantised_in_another_way_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "quark"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="quark"):
        read_spec(tmp_path)
