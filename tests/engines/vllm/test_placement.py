"""A model over the devices of one machine, checked against vLLM's own rules."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.vllm.devices import choose_placement
from quire.engines.vllm.launch import import_vllm
from tests.engines.vllm.facts import gpus, qwen

SIZES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 16, 20, 24, 25, 28, 32, 40, 48, 64, 71])


@pytest.fixture(scope="module")
def vllm_takes() -> Any:
    """Whether vLLM's own checks pass for these heads and this tensor-parallel size."""
    import_vllm()
    from vllm.config.model import ModelConfig
    from vllm.distributed.utils import divide

    def check(heads: int, kv_heads: int, rows: int, size: int, layers: int = 1) -> None:
        model: Any = SimpleNamespace(
            model_arch_config=SimpleNamespace(total_num_attention_heads=heads),
            registry=SimpleNamespace(is_pp_supported_model=lambda *_: True),
            architectures=["LlamaForCausalLM"],
            multimodal_config=None,
        )
        parallel: Any = SimpleNamespace(
            enable_hc_sp=False,
            tensor_parallel_size=size,
            pipeline_parallel_size=layers,
            enable_expert_parallel=False,
            decode_context_parallel_size=1,
        )
        ModelConfig.verify_with_parallel_config(model, parallel)
        # QKVParallelLinear copies heads of keys and values where there are more devices than heads.
        divide(size, kv_heads) if size >= kv_heads else divide(kv_heads, size)
        divide(rows, size)

    return check


def offered(note: str) -> dict[str, int]:
    """The settings that a note offers."""
    found = re.search(r"vllm_config (\{.*?\})", note)
    return {} if found is None else json.loads(found[1])


@pytest.mark.parametrize(
    ("devices", "heads", "kv_heads", "size", "offer"),
    [
        (1, 28, 4, 1, {}),
        (2, 28, 4, 2, {}),
        (8, 28, 4, 4, {"data_parallel_size": 2}),
        (3, 28, 4, 2, {"tensor_parallel_size": 1, "pipeline_parallel_size": 3}),
        (6, 28, 4, 4, {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}),
        (5, 28, 4, 4, {"tensor_parallel_size": 1, "pipeline_parallel_size": 5}),
        (8, 64, 8, 8, {}),
        (8, 32, 2, 8, {}),
        (8, 14, 2, 2, {"data_parallel_size": 4}),
        (7, 12, 12, 6, {"tensor_parallel_size": 1, "pipeline_parallel_size": 7}),
    ],
)
def test_the_largest_size_that_divides(
    devices: int, heads: int, kv_heads: int, size: int, offer: dict[str, int]
) -> None:
    model = qwen(num_heads=heads, num_kv_heads=kv_heads, intermediate_size=0)
    placement = choose_placement(gpus(devices), model)
    assert placement.tensor_parallel_size == size
    assert offered(placement.note) == offer
    assert bool(placement.note) == (size != devices)


def test_the_note_says_what_is_left_over() -> None:
    placement = choose_placement(gpus(11), qwen())
    assert placement.tensor_parallel_size == 4
    assert "Of 11 devices 4 are used" in placement.note
    assert "28 attention heads (4 for keys and values)" in placement.note
    assert '{"data_parallel_size": 2}; 3 would still be idle' in placement.note


def test_feed_forward_rows_count_too() -> None:
    assert choose_placement(gpus(4), qwen(intermediate_size=18942)).tensor_parallel_size == 2


@given(st.integers(1, 16), SIZES, SIZES, st.sampled_from([0, 1, 768, 11008, 18944, 13824, 9999]))
@settings(deadline=None)
def test_vllm_takes_every_placement(
    vllm_takes: Any, devices: int, kv_heads: int, groups: int, rows: int
) -> None:
    heads = kv_heads * groups
    model = qwen(num_heads=heads, num_kv_heads=kv_heads, intermediate_size=rows)
    placement = choose_placement(gpus(devices), model)
    size = placement.tensor_parallel_size
    vllm_takes(heads, kv_heads, rows, size)
    for larger in range(size + 1, devices + 1):
        with pytest.raises((ValueError, AssertionError)):
            vllm_takes(heads, kv_heads, rows, larger)
    offer = {"tensor_parallel_size": size, **offered(placement.note)}
    width, layers = offer["tensor_parallel_size"], offer.get("pipeline_parallel_size", 1)
    vllm_takes(heads, kv_heads, rows, width, layers)
    used = width * layers * offer.get("data_parallel_size", 1)
    assert size <= used <= devices
