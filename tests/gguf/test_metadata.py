"""Metadata of GGUF files: numbers of all types and sizes, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import inverse_frequencies
from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.gguf.architectures.table import ARCHITECTURES
from quire.gguf.config.header import shortest
from quire.gguf.config.reading import config_of
from quire.gguf.weights import GgufSource, open_files
from quire.weights.hub_config import HubConfig
from tests.gguf.writing import EXPERTS, TINY, write_file, write_tiny

# ---- numbers


def test_numbers_are_those_of_the_folder() -> None:
    """A file has float32 of what a folder has in decimals."""
    for value in (1e-5, 1e-6, 1.5625e-7, 0.22, 1e6, 0.1, 12.0):
        assert shortest(float(np.float32(value))) == value
    assert shortest(0.1) == 0.1  # a float64
    assert shortest(1e300) == 1e300


@pytest.mark.parametrize(
    "kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
)
def test_integers_of_all_types(config: Any, kind: Any) -> None:
    expected = config()
    names = ("block_count", "embedding_length", "attention.head_count", "feed_forward_length")
    assert config(**{f".{name}": kind(TINY[name]) for name in names}) == expected


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_of_all_types(config: Any, kind: Any) -> None:
    keys = {".attention.layer_norm_rms_epsilon": kind(1e-5), ".rope.freq_base": kind(1e4)}
    assert config(**keys) == config()
    assert config(**{".rope.freq_base": np.uint32(10_000)}) == config()


def test_values_of_each_layer_that_are_all_the_same(config: Any) -> None:
    names = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    keys = {f".{name}": [np.uint32(TINY[name])] * 2 for name in names}
    assert config(**keys) == config()
    for name in names:
        with pytest.raises(UnsupportedModelError, match=rf"llama\.{name} differs between layers"):
            config(**{f".{name}": [np.int32(TINY[name]), np.int32(8)]})
        with pytest.raises(ModelError, match=rf"llama\.{name} is 'a list of 3'"):
            config(**{f".{name}": [np.int32(TINY[name])] * 3})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("block_count", 0, "1 to 512"),
        ("block_count", 513, "1 to 512"),
        ("block_count", None, "is missing"),
        ("block_count", "two", "1 to 512"),
        ("block_count", True, "1 to 512"),
        ("nextn_predict_layers", 2, "0 to 1"),
        ("attention.head_count", 0, "1 to 10000"),
        ("attention.head_count", None, "is missing"),
        ("attention.head_count", 4.0, "an integer"),
        ("attention.head_count_kv", 0, "1 to 10000"),
        ("attention.head_count_kv", 3, "a divisor of the 4 heads"),
        ("attention.head_count_kv", np.int32(-2), "1 to 10000"),
        ("attention.key_length", 1, "an integer of 2"),
        ("embedding_length", np.uint64(2**63), "an integer of 1"),
        ("embedding_length", None, "is missing"),
        ("context_length", 0, "an integer of 1"),
        ("context_length", None, "is missing"),
        ("feed_forward_length", None, "is missing"),
        ("attention.layer_norm_rms_epsilon", 0.0, "a number above 0"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "a number above 0"),
        ("attention.layer_norm_rms_epsilon", 2.0, "at most 1"),
        ("attention.layer_norm_rms_epsilon", None, "is missing"),
        ("rope.freq_base", float("inf"), "a number above 0"),
        ("rope.freq_base", -1.0, "a number above 0"),
        ("rope.freq_base", 1.0, "above 1"),
        ("rope.dimension_count", 18, "2 to 16"),
        ("rope.dimension_count", 7, "even"),
        ("rope.scaling.factor", -2.0, "a number of at least 0 and at most 1e"),
        ("rope.scaling.factor", 1e-4, "0, or at least 0.001"),
        ("rope.scaling.factor", float("nan"), "a number of at least 0"),
        ("rope.scaling.type", 3, "a text"),
        ("expert_count", 1025, "0 to 1024"),
        ("expert_used_count", 3, "0, as the number of experts"),
        ("attention.sliding_window", np.int32(-1), "0 to"),
    ],
)
def test_values_out_of_range_are_refused(config: Any, key: str, value: Any, expected: str) -> None:
    with pytest.raises(ModelError, match=rf"llama\.{key} .*{expected}"):
        config(**{f".{key}": value})


def test_experts_in_use_are_at_most_all(config: Any) -> None:
    for used in (0, 5):
        with pytest.raises(ModelError, match=f"expert_used_count is {used}.*1 to 4 of 4 experts"):
            config(**{".expert_count": 4, ".expert_used_count": used})


def test_a_pattern_of_another_length_is_refused(config: Any) -> None:
    keys = {".attention.sliding_window": 9, ".attention.sliding_window_pattern": [True] * 3}
    with pytest.raises(ModelError, match=r"sliding_window_pattern is 'a list of 3'.* list of 2"):
        config("gemma3", **keys)
    keys[".attention.sliding_window_pattern"] = [0.5, 0.5]
    with pytest.raises(ModelError, match=r"sliding_window_pattern is .* a list of integers"):
        config("gemma3", **keys)


def test_embeddings_of_another_width_are_refused(config: Any) -> None:
    with pytest.raises(WeightsError, match=r"token_embd.*\(70, 64\).*embedding_length is 128"):
        config(**{".embedding_length": 128})


# ---- what is refused


def test_an_unknown_architecture_is_named_with_those_that_are_known(config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mpt'\. It runs llama, .*internlm2"):
        config("mpt")
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture is missing"):
        config(**{"general.architecture": None})
    with pytest.raises(ModelError, match=r"general\.architecture is 3; it must be a text"):
        config(**{"general.architecture": 3})


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("adapter", "a LoRA adapter"),
        ("mmproj", "the part of a model that sees or hears"),
        ("imatrix", "a list of which weights matter"),
        ("draft", "of the kind 'draft', and no model"),
        (3, "of the kind 3, and no model"),
    ],
)
def test_files_that_hold_no_model(config: Any, kind: Any, problem: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"it is {problem}"):
        config(**{"general.type": kind})


def test_an_old_projector_names_no_kind(config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="the part of a model that sees or hears"):
        config("clip", **{"general.type": None})


def test_a_file_of_a_vocabulary_alone(tmp_path: Path) -> None:
    keys = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"]}
    path = write_file(tmp_path / "a.gguf", keys, {})
    with pytest.raises(UnsupportedModelError, match="holds a vocabulary and no weights"):
        config_of(open_files(path))


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("llama", "attention.causal", False),
        ("llama", "attention.max_alibi_bias", 8.0),
        ("olmoe", "attention.clamp_kqv", 8.0),
        ("mistral3", "attention.temperature_scale", 0.1),
        ("llama", "logit_scale", 2.0),
        ("llama", "embedding_scale", 2.0),
        ("llama", "residual_scale", 0.5),
        ("llama", "attention.scale", 0.5),
        ("llama", "expert_count", 0.0),
        ("qwen3", "expert_count", 4),
        ("granite", "expert_count", 4),
        ("minimax-m2", "expert_gating_func", 1),
        ("minimax-m2", "expert_weights_scale", 2.5),
        ("hunyuan-moe", "leading_dense_block_count", 1),
        ("glm4moe", "expert_gating_func", 1),
        ("glm4moe", "interleave_moe_layer_step", 2),
        ("qwen3moe", "expert_gating_func", 2),
        ("qwen3moe", "expert_group_count", 4),
        ("qwen3moe", "expert_weights_scale", 2.5),
        ("granite", "rope.scaling.finetuned", False),
        ("gemma2", "rope.freq_base_swa", 5e5),
        ("gemma3", "rope.dimension_count_swa", 8),
        ("gemma3", "attention.key_length_swa", 8),
        ("llama", "rope.scaling.type", "su"),
        ("llama", "rope.scaling.attn_factor", 1.5),
        ("llama", "rope.scaling.alpha", 2.0),
        ("qwen2moe", "expert_count", 0),
        ("granite", "rope.scaling.finetuned", 2),
    ],
)
def test_what_the_engine_does_not_compute_is_refused(
    config: Any, architecture: str, key: str, value: Any
) -> None:
    with_experts = ARCHITECTURES[architecture].experts == "all" and key != "expert_count"
    more = EXPERTS if with_experts else {}
    with pytest.raises(ModelError, match=rf"a\.gguf: .*{architecture}\.{key} is |Granite"):
        config(architecture, **more, **{f".{key}": value})


def test_values_that_change_nothing_are_accepted(config: Any) -> None:
    neutral = {
        ".attention.causal": True,
        ".attention.scale": 0.25,
        ".logit_scale": 1.0,
        ".expert_count": 0,
        ".expert_used_count": 0,
        ".expert_weights_scale": 0.0,
        ".rope.scaling.attn_factor": 1.0,
        ".rope.freq_base_swa": 10_000.0,
        ".use_parallel_residual": False,
        ".final_logit_softcapping": 0.0,
        ".nextn_predict_layers": 0,
    }
    assert config(**neutral) == config()


def test_mixtral_needs_weights_that_sum_to_one(config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="expert_weights_norm is false"):
        config(**EXPERTS, **{".expert_weights_norm": False})


_KEYS = [
    *TINY, "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.sliding_window_pattern", "rope.dimension_count", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.freq_base_swa", "expert_count", "expert_used_count",
    "attn_logit_softcapping", "nextn_predict_layers", "attention.scale", "logit_scale",
]  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(["", "yarn", "linear", "longrope", "none", True, False]),
    st.sampled_from([float("nan"), float("inf"), -0.0, 1e-45, 3.4e38, -1.0, 0.5]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 130),
    st.integers(-(2**63), -1).map(np.int64),
    st.integers(2**32, 2**64 - 1).map(np.uint64),
    st.lists(st.integers(0, 65).map(np.int32), min_size=1, max_size=3),
    st.lists(st.floats(width=32), min_size=1, max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=2),
)


@settings(max_examples=300)
@given(
    st.sampled_from([name for name, one in ARCHITECTURES.items() if one.experts != "all"]),
    st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=3),
)
def test_any_metadata_gives_a_model_or_a_named_refusal(
    tmp_path_factory: pytest.TempPathFactory, architecture: str, changes: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    write_tiny(path, architecture, metadata={f".{key}": one for key, one in changes.items()})
    logging.getLogger("quire").setLevel(logging.ERROR)
    try:
        files = open_files(path)
        config = json.loads(json.dumps(config_of(files), allow_nan=False))
        found = spec_of(HubConfig(config, str(path)))
        source = GgufSource(files, config)
    except ModelError as error:
        named = str(error)
    else:
        named = ""
        assert found.num_layers <= 2
        for rope, head_dim in found.ropes:
            inverse_frequencies(rope, head_dim, 64)
        for name in source.names():
            assert source.tensor(name).data.ndim == 2
    assert not named or "any.gguf" in named
