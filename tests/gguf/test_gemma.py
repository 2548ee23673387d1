"""Gemma 3n and 4 in GGUF files: what their layers are, by keys and by tensors, and what no such model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError, WeightsError
from tests.engines.native.random_models import make_random_model
from tests.gguf.model_files import write_model
from tests.gguf.same_model import assert_same_model

GEMMA_3N: dict[str, Any] = {
    ".attention.sliding_window": 9,
    ".attention.sliding_window_pattern": [True, False],
    ".attention.key_length": 16,
}
GEMMA_4: dict[str, Any] = {
    **GEMMA_3N,
    ".attention.key_length": 32,
    ".attention.key_length_swa": 16,
    ".rope.dimension_count": 32,
}
LAUREL = {"blk.0.laurel_l.weight": np.ones((8, 64), np.float32)}
DIVISORS = np.array([1.0] * 4 + [1e30] * 12, np.float32)
TABLE = {"per_layer_token_embd.weight": np.ones((70, 40), np.float32)}


def test_what_files_of_gemma_3n_do_not_say(config: Any) -> None:
    """llama.cpp has the shares of gate values, the cap and the layers with keys of their own in code."""
    blocks = {".block_count": 24, ".attention.sliding_window_pattern": [True, False] * 12}
    found = config("gemma3n", LAUREL, **{**GEMMA_3N, **blocks})
    assert found["activation_sparsity_pattern"] == [0.95] * 10 + [0.0] * 14
    assert (found["final_logit_softcapping"], found["num_kv_shared_layers"]) == (30.0, 4)
    assert (found["altup_num_inputs"], found["altup_active_idx"], found["laurel_rank"]) == (4, 0, 8)
    quantiles = [np.float32(1.6448536), np.float32(-np.inf)]
    keys = {".activation_sparsity_scale": quantiles, ".attention.shared_kv_layers": 0}
    found = config("gemma3n", LAUREL, **GEMMA_3N, **keys)
    assert found["activation_sparsity_pattern"] == [0.95, 0.0]
    assert found["num_kv_shared_layers"] == 0


def test_layers_of_gemma_4(config: Any) -> None:
    values = {"blk.1.attn_v.weight": None, "rope_freqs.weight": DIVISORS}
    heads = {".attention.head_count_kv": [np.int32(2), np.int32(1)]}
    found = config("gemma4", values, **GEMMA_4, **heads)
    assert (found["head_dim"], found["global_head_dim"]) == (16, 32)
    assert (found["num_key_value_heads"], found["num_global_key_value_heads"]) == (2, 1)
    assert found["attention_k_eq_v"]
    assert found["rope_parameters"]["full_attention"]["partial_rotary_factor"] == 0.25
    assert not config("gemma4", **GEMMA_4)["attention_k_eq_v"]
    wide = {".feed_forward_length": [np.int32(96), np.int32(192)]}
    found = config("gemma4", **GEMMA_4, **wide, **{".attention.shared_kv_layers": 1})
    assert (found["intermediate_size"], found["use_double_wide_mlp"]) == (96, True)


@pytest.mark.parametrize(
    ("architecture", "tensors", "keys", "problem"),
    [
        ("gemma4", {}, {".attention.sliding_window_pattern": None}, "a list of 2"),
        ("gemma4", {}, {".attention.shared_kv_layers": 2}, "0 to 1"),
        ("gemma4", {}, {".attention.value_length": 8}, "as that of keys"),
        ("gemma4", {}, {".feed_forward_length": [np.int32(96), np.int32(97)]}, "twice as large"),
        ("gemma4", {}, {".feed_forward_length": [np.int32(96)] * 3}, "a list of 2"),
        (
            "gemma4",
            {},
            {".attention.head_count_kv": [np.int32(2), np.int32(1)]},
            "whose values are not their keys",
        ),
        ("gemma4", {}, {".attention.head_count_kv": [np.int32(2), np.int32(0)]}, "one number for"),
        ("gemma4", {"rope_freqs.weight": DIVISORS[::-1]}, {}, "other dimensions of a head"),
        ("gemma4", {"rope_freqs.weight": DIVISORS * np.float32(2)}, {}, "other dimensions"),
        ("gemma3n", {}, {".activation_sparsity_scale": [1.5]}, "a list of 2 numbers"),
        ("gemma3n", {}, {".activation_sparsity_scale": [float("nan")] * 2}, "a list of 2 numbers"),
        ("gemma3n", {}, {".altup.active_idx": 4}, "0 to 3"),
    ],
)
def test_layers_that_no_gemma_has(
    config: Any, architecture: str, tensors: dict[str, Any], keys: dict[str, Any], problem: str
) -> None:
    usual = GEMMA_4 if architecture == "gemma4" else GEMMA_3N
    with pytest.raises(ModelError, match=problem):
        config(architecture, tensors, **{**usual, **keys})


def test_inputs_of_layers_need_their_table(config: Any) -> None:
    size = {".embedding_length_per_layer_input": 20}
    with pytest.raises(WeightsError, match=r"lacks per_layer_token_embd\.weight"):
        config("gemma4", **GEMMA_4, **size)
    found = config("gemma4", TABLE, **GEMMA_4, **size)
    assert found["vocab_size_per_layer_input"] == 70
    padded = np.pad(TABLE["per_layer_token_embd.weight"][:60], ((0, 10), (0, 0)))
    tables = {**LAUREL, "per_layer_token_embd.weight": padded}
    assert config("gemma3n", tables, **GEMMA_3N, **size)["vocab_size_per_layer_input"] == 60


def test_keys_that_no_layer_reads_are_left_aside(tmp_path: Path) -> None:
    """Folders on the hub have keys and values in layers that attend to those of others."""
    folder = make_random_model(tmp_path / "folder", "gemma4_small")
    unused = {
        f"blk.4.{role}.weight": np.ones(shape, np.float32)
        for role, shape in (("attn_k", (48, 64)), ("attn_v", (48, 64)), ("attn_k_norm", (24,)))
    }
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", tensors=unused))
