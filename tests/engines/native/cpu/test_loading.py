"""From a folder to a runner: lengths, rotary scalings, memory, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engines.native.core.batch import Runner
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.memory.kv_cache import block_bytes
from quire.engines.native.cpu.memory.states import slot_bytes
from quire.engines.native.models.registry import read_spec
from quire.errors import (
    ConfigError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
    WeightsError,
)
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_models import make_random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("models") / "qwen2", "qwen2")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_runner_has_what_the_protocol_asks(folder: Path) -> None:
    runner: Runner = load_model(folder, num_threads=1, max_sequences=2)
    assert (runner.block_size, runner.vocab_size, runner.max_model_len) == (16, 300, 512)
    assert runner.num_blocks == 2 * 512 // 16  # no more than two sequences can use
    runner.close()


def test_kv_cache_memory_gives_the_number_of_blocks(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = block_bytes(read_spec(folder), 16)
    assert one == 3 * 2 * 2 * 16 * 16 * 4  # layers, keys and values, heads, tokens, size, bytes
    with caplog.at_level(logging.INFO, "quire"):
        runner = load_model(folder, kv_cache_memory=40 * one + 7, num_threads=1)
    assert runner.num_blocks == 40
    assert "40 blocks of 16 tokens, 640 tokens, up to 0.5 MiB" in caplog.text
    runner.close()


def test_a_cache_too_small_for_one_sequence(folder: Path) -> None:
    one = block_bytes(read_spec(folder), 16)
    with pytest.raises(OutOfMemoryError, match=r"512 tokens needs 32 blocks.*vllm_maxlen to 496"):
        load_model(folder, kv_cache_memory=31 * one)
    load_model(folder, kv_cache_memory=31 * one, max_model_len=496, num_threads=1).close()


def test_states_leave_room_for_one_sequence(tmp_path: Path) -> None:
    """They take half of the memory at most, and what is left where one sequence needs more than half."""
    folder = make_random_model(tmp_path / "lfm2", "lfm2", max_position_embeddings=512)
    spec = read_spec(folder)
    one, sequence = slot_bytes(spec), 32 * block_bytes(spec, 16)
    for memory, slots in (
        (2 * sequence, sequence // one),
        (sequence + 3 * one, 3),
        (sequence + one, 1),
    ):
        runner = load_model(folder, kv_cache_memory=memory, max_sequences=10_000, num_threads=1)
        assert (runner.num_state_slots, runner.num_blocks >= 32) == (slots, True)
        runner.close()
    with pytest.raises(OutOfMemoryError, match=r"512 tokens needs 32 blocks.*vllm_maxlen to 496"):
        load_model(folder, kv_cache_memory=sequence)


def test_the_length_that_is_asked_for(folder: Path) -> None:
    runner = load_model(folder, max_model_len=100, num_threads=1)
    assert runner.max_model_len == 100
    runner.close()
    with pytest.raises(ConfigError, match=r"vllm_maxlen 600 is more than the 512 positions"):
        load_model(folder, max_model_len=600)
    runner = load_model(folder, max_model_len=600, max_model_len_is_wish=True, num_threads=1)
    assert runner.max_model_len == 512
    runner.close()


def test_rope_scaling_stretches_the_context(folder: Path) -> None:
    plain = load_model(folder, num_threads=1, max_sequences=2)
    scaled = load_model(folder, rope_scaling="linear", num_threads=1, max_sequences=2)
    assert scaled.max_model_len == 1024
    ids = random_ids(20)
    assert not np.allclose(logits_of(plain, ids)[5:], logits_of(scaled, ids)[5:], atol=1e-3)
    with pytest.raises(ConfigError, match="rope_scaling"):
        load_model(folder, rope_scaling="cubic")
    plain.close()
    scaled.close()


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text"])
def test_positions_beyond_the_first_table_of_angles(kind: str, tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "long", kind, max_position_embeddings=3000)
    runner = load_model(folder, num_threads=1, max_sequences=1, max_batch_tokens=1000)
    ids = random_ids(2500)
    at_once = load_model(folder, num_threads=1, max_sequences=1, max_batch_tokens=2500)
    grown = logits_of(runner, ids, [1000, 1000])
    np.testing.assert_array_equal(grown, logits_of(at_once, ids))
    runner.close()
    at_once.close()


@pytest.mark.parametrize(("kind", "tokens"), [("qwen2", 512), ("mixtral", 2048)])
def test_a_step_has_512_tokens_and_with_experts_2048(
    kind: str, tokens: int, tmp_path: Path
) -> None:
    folder = make_random_model(tmp_path / kind, kind)
    for sequences, expected in ((1, tokens), (3000, 3000)):  # each may have one of its own
        runner = load_model(folder, num_threads=1, max_sequences=sequences)
        assert runner.max_batch_tokens == expected
        runner.close()
    runner = load_model(folder, num_threads=1, max_sequences=1, max_batch_tokens=17)
    assert runner.max_batch_tokens == 17
    runner.close()


def test_bfloat16_on_request(folder: Path) -> None:
    whole = load_model(folder, num_threads=1, max_sequences=1)
    rounded = load_model(folder, dtype="bfloat16", num_threads=1, max_sequences=1)
    first, second = (logits_of(runner, random_ids(30)) for runner in (whole, rounded))
    assert 1e-4 < np.abs(first - second).max() < 0.5
    whole.close()
    rounded.close()


@pytest.mark.parametrize("size", [0, 8, 20, 1000])
def test_an_unknown_block_size(folder: Path, size: int) -> None:
    with pytest.raises(ConfigError, match="native_block_size"):
        load_model(folder, block_size=size)


def test_an_unknown_model_type(copy: Path) -> None:
    change_config(copy, model_type="mamba")
    with pytest.raises(
        UnsupportedModelError, match=r"mamba.*llama, .*mistral, .*qwen2, .*qwen3.*vllm"
    ):
        load_model(copy)


def test_weights_that_are_missing_truncated_or_of_another_shape(copy: Path) -> None:
    change_config(copy, intermediate_size=100)
    with pytest.raises(WeightsError, match=r"config\.json asks for"):
        load_model(copy)
    change_config(copy, intermediate_size=112)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="truncated"):
        load_model(copy)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        load_model(copy)
    with pytest.raises(ModelNotFoundError):
        load_model(copy / "elsewhere")


def test_a_step_that_no_memory_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 238. GiB")

    monkeypatch.setattr("quire.engines.native.cpu.loading.CpuRunner", none_left)
    with pytest.raises(OutOfMemoryError, match="238"):
        load_model(folder, num_threads=1, max_sequences=2)
