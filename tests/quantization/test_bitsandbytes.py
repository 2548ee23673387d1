"""bitsandbytes' checkpoints: one module against a plain writer, whole folders against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.registry import read_spec
from quire.errors import ConfigError, WeightsError
from quire.quantization.formats import read_quantization, read_quantized
from quire.weights.hub_config import HubConfig
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.quantization import plain_formats as plain
from tests.quantization.memory_source import MemorySource

IDS = random_ids(40)
FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}


def random_weight(columns: int, depth: int) -> Any:
    return np.random.default_rng(1).standard_normal((columns, depth), dtype=np.float32)


def read(parts: plain.Tensors, shape: tuple[int, int], settings: dict[str, Any] | None) -> Any:
    config = HubConfig({"quantization_config": settings})
    return read_quantized(MemorySource(parts), "m.weight", shape, read_quantization(config))


@pytest.mark.parametrize("storage", ["uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((4, 128), 64),
        ((6, 96), 64),
        ((8, 72), 64),
        ((5, 8), 64),
        ((32, 320), 32),
        ((2, 4096), 4096),
    ],
)
def test_four_bits(
    shape: tuple[int, int], block: int, kind: str, nested: bool, storage: str
) -> None:
    weight = random_weight(*shape)
    parts, meant = plain.write_bitsandbytes(
        weight, kind=kind, block=block, nested=nested, storage=storage
    )
    for settings in (FOUR, None):  # it describes itself
        found = read(parts, shape, settings)
        np.testing.assert_array_equal(found.dequantized(), meant)
        even = found.on_even_steps()
        scales = np.repeat(np.abs(found.scales), found.group, axis=1)
        assert np.all(np.abs(even.dequantized() - meant) <= scales / 253)


@pytest.mark.parametrize("shape", [(4, 128), (3, 72)])
def test_eight_bits(shape: tuple[int, int]) -> None:
    parts, meant = plain.write_int8(random_weight(*shape))
    found = read(parts, shape, EIGHT)
    np.testing.assert_allclose(found.dequantized(), meant, rtol=2e-7)
    assert (found.bits, found.group) == (8, shape[1])


def test_an_odd_number_of_weights() -> None:
    parts, meant = plain.write_bitsandbytes(random_weight(3, 5), block=64)
    np.testing.assert_array_equal(read(parts, (3, 5), FOUR).dequantized(), meant)


def test_zeros() -> None:
    parts, meant = plain.write_bitsandbytes(np.zeros((4, 64), np.float32))
    found = read(parts, (4, 64), FOUR)
    assert not found.dequantized().any()
    assert not meant.any()
    assert not found.on_even_steps().dequantized().any()


STATE = "weight.quant_state.bitsandbytes__nf4"


def state(**changes: Any) -> Callable[[plain.Tensors], None]:
    def change(parts: plain.Tensors) -> None:
        values = json.loads(parts[STATE].tobytes()) | changes
        parts[STATE] = np.frombuffer(json.dumps(values).encode(), np.uint8)

    return change


def part(name: str, value: Any) -> Callable[[plain.Tensors], None]:
    return lambda parts: parts.update({name: value})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (state(blocksize=0), "blocksize"),
        (state(blocksize=-64), "blocksize"),
        (state(blocksize=10**30), "blocksize"),
        (state(blocksize="64"), "blocksize"),
        (state(shape=[8, 64]), "shape"),
        (state(shape=None), "shape"),
        (state(nested_blocksize=None), "nested_blocksize"),
        (state(nested_offset="0"), "nested_offset"),
        (state(nested_offset=float("nan")), "nested_offset"),
        (part(STATE, np.frombuffer(b"[" * 5000, np.uint8)), "cannot be read"),
        (part(STATE, np.frombuffer(b"\xff\xfe{", np.uint8)), "cannot be read"),
        (part("weight", np.zeros((127, 1), np.uint8)), "127 bytes"),
        (part("weight.absmax", np.zeros(3, np.uint8)), "3 scales for 4 blocks"),
        (part("weight.quant_map", np.zeros(15, np.float32)), "quant_map has shape"),
        (part("weight.quant_map", np.full(16, np.nan, np.float32)), "infinities"),
        (part("weight.nested_absmax", np.zeros(2, np.float32)), "nested_absmax has shape"),
        (part("weight.nested_quant_map", np.zeros(16, np.float32)), "nested_quant_map has shape"),
    ],
)
def test_damaged_tensors_are_named(change: Callable[[plain.Tensors], None], text: str) -> None:
    parts, _ = plain.write_bitsandbytes(random_weight(4, 64), nested=True)
    change(parts)
    with pytest.raises(WeightsError, match=text):
        read(parts, (4, 64), FOUR)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SCB", np.zeros(3, np.float32), "SCB has shape"),
        ("weight_format", np.array(2, np.uint8), "not row"),
        ("weight", np.zeros((4, 32), np.int8), "weight has shape"),
    ],
)
def test_damaged_bytes_are_named(name: str, value: Any, text: str) -> None:
    parts, _ = plain.write_int8(random_weight(4, 64))
    parts[name] = value
    with pytest.raises(WeightsError, match=text):
        read(parts, (4, 64), EIGHT)


# ---- whole folders


def quantised(folder: Path, kind: str, how: str, **config: Any) -> tuple[Path, Path]:
    """A model's folder as bitsandbytes writes it, and the same in full precision."""
    source = make_random_model(folder / "plain", kind, **config)
    tensors = load_file(source / "model.safetensors")
    made: plain.Tensors = {}
    for name, value in list(tensors.items()):
        module = name.removesuffix(".weight")
        if "layers" not in name or value.ndim != 2:
            made[name] = value
            continue
        if how == "int8":
            parts, meant = plain.write_int8(value)
        else:
            parts, meant = plain.write_bitsandbytes(value, kind=how, nested=True, storage="uint8")
        made |= {f"{module}.{part}": np.ascontiguousarray(one) for part, one in parts.items()}
        tensors[name] = meant
    target = folder / "quantised"
    target.mkdir()
    save_file(made, target / "model.safetensors")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((source / "config.json").read_text("utf-8"))
    settings["quantization_config"] = (
        EIGHT if how == "int8" else {**FOUR, "bnb_4bit_quant_type": how}
    )
    (target / "config.json").write_text(json.dumps(settings), "utf-8")
    return target, source


@pytest.mark.parametrize("how", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize(("kind", "width"), [("llama2", 128), ("qwen2", 72), ("phi3", 128)])
def test_a_folder(kind: str, width: int, how: str, tmp_path: Path) -> None:
    """In float32 it is the model that is meant; in packed integers it is near it."""
    sizes = {"hidden_size": width, "intermediate_size": 192, "head_dim": 16}
    folder, source = quantised(tmp_path, kind, how, **sizes if kind != "phi3" else {
        "hidden_size": width, "intermediate_size": 192})  # fmt: skip
    oracle = load_oracle(source)
    import torch

    with torch.no_grad():
        wanted = oracle(torch.tensor([IDS])).logits[0].numpy()
    exact = load_model(folder, dtype="float32", max_sequences=2, max_batch_tokens=64, num_threads=2)
    np.testing.assert_allclose(logits_of(exact, IDS), wanted, atol=2e-4)
    exact.close()
    layer = load_weights(read_spec(folder), folder).layers[0]
    assert all(isinstance(layer[role], PackedMatrix) for role in ("q", "o", "gate", "down"))
    runner = load_model(folder, max_sequences=2, max_batch_tokens=64, num_threads=2)
    errors = np.sqrt(np.mean((logits_of(runner, IDS) - wanted) ** 2, axis=-1))
    runner.close()
    assert 0 < np.median(errors) < 0.1 * wanted.std()


@pytest.mark.parametrize("settings", [FOUR, EIGHT, {"load_in_4bit": True}, {"load_in_8bit": True}])
def test_a_config_that_was_left_over(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that merge an adapter into 16-bit weights keep the config of those that it was trained on."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    folder = make_random_model(tmp_path / "model", "qwen2", dtype="bfloat16")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    plain_logits = logits_of(load_model(folder, max_sequences=2, num_threads=1), IDS)
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    found = logits_of(load_model(folder, max_sequences=2, num_threads=1), IDS)
    np.testing.assert_array_equal(found, plain_logits)
    rounded = load_model(folder, quantize="int8", max_sequences=2, num_threads=1)
    assert np.isfinite(logits_of(rounded, IDS)).all()


def test_what_is_quantised_is_not_rounded_again(tmp_path: Path) -> None:
    folder, _ = quantised(tmp_path, "llama2", "nf4")
    with pytest.raises(ConfigError, match="quantised already"):
        load_model(folder, quantize="int8")
