"""Where the KV cache has its blocks: those of all heads side by side, so that few take little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.engines.native.cpu.kernels.layout import RUN
from quire.engines.native.cpu.memory.kv_cache import KvCache, block_bytes
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.spec import DecoderSpec
from tests.engines.native.random_models import make_random_model

BLOCKS = 5 * RUN // 2


@pytest.fixture(scope="module", params=["llama2", "gemma4_text", "deepseek_v3"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DecoderSpec:
    """One with heads of one size, one of several, and one with keys and values of several."""
    return read_spec(make_random_model(tmp_path_factory.mktemp("model"), request.param))


def layers_of(cache: KvCache, spec: DecoderSpec) -> list[tuple[Any, Any]]:
    return [cache._layers[layer] for layer in range(spec.num_layers)]


def test_the_first_blocks_of_all_heads_lie_together(spec: DecoderSpec) -> None:
    cache = KvCache(spec, num_blocks=BLOCKS, block_size=16, dtype="float16")
    assert cache.nbytes == BLOCKS * block_bytes(spec, 16, "float16")
    for which, run_bytes in enumerate(cache.run_bytes):
        starts = [cache.addresses(layer)[which] for layer in range(spec.num_layers)]
        sizes = [pair[which][0].nbytes for pair in layers_of(cache, spec)]
        assert starts == [starts[0] + sum(sizes[:n]) for n in range(len(sizes))]
        assert sum(sizes) == run_bytes


def test_each_block_of_each_head_has_its_own_memory(spec: DecoderSpec) -> None:
    cache = KvCache(spec, num_blocks=BLOCKS, block_size=16, dtype="int8")
    number = 0
    for pair in layers_of(cache, spec):
        for array in pair:
            for one in _rows(array):
                number += 1
                one.view(np.int32)[:] = number
    seen = [
        int(row.view(np.int32)[0])
        for pair in layers_of(cache, spec)
        for array in pair
        for row in _rows(array)
        if (row.view(np.int32) == row.view(np.int32)[0]).all()
    ]
    assert seen == list(range(1, number + 1))


def _rows(array: Any) -> list[Any]:
    """The blocks of all heads, as views."""
    return [one for run in array for head in run for one in head]


def test_blocks_are_copied_over_runs(spec: DecoderSpec) -> None:
    cache = KvCache(spec, num_blocks=BLOCKS, block_size=16, dtype="float32")
    source, target = RUN - 1, 2 * RUN + 3
    for number, pair in enumerate(layers_of(cache, spec)):
        for array in pair:
            array[0, :, RUN - 1] = number + 1
    cache.copy_blocks([(source, target)])
    for number, pair in enumerate(layers_of(cache, spec)):
        for array in pair:
            assert (array[2, :, 3] == number + 1).all()
            array[2, :, 3] = array[0, :, RUN - 1] = 0
            assert not array.any(), "nothing else was written to"
