"""Specs against transformers' own configs, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engines.native.models.registry import read_spec, spec_of
from quire.engines.native.models.tensors import Rows, find_part
from quire.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile, WeightsFolder
from tests.engines.native.models.specs import spec
from tests.engines.native.random_models import KINDS, config_values, make_random_model


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_folder(tmp_path: Path, kind: str) -> None:
    folder = make_random_model(tmp_path, kind)
    found = read_spec(folder)
    tensors = list(found.global_tensors())
    for layer in range(found.num_layers):
        tensors += found.layer_tensors(layer)
    stored = SafetensorsFile(folder / "model.safetensors")
    prefixes, shapes = found.names.prefix_map, dict[str, tuple[int, ...]]()
    for name in stored.names():
        if not any(part in name for part in ("vision", "visual", "multi_modal")):
            here = next((h + name[len(t) :] for t, h in prefixes if name.startswith(t)), name)
            shapes[here] = stored.tensor(name).values.shape
    source = WeightsFolder(folder, found.names.prefix_map)
    parts_of = {t.role + t.name: find_part(t, source.shape_of) for t in tensors}
    places = [(t, parts_of[t.role + t.name]) for t in tensors]
    names = {
        p.name if p else t.name.format(i): p.stored_shape if p else t.stored_shape
        for t, p in places
        for i in range(t.pieces or 1)
    }
    assert names == shapes
    for place in {part.name for _, part in places if part}:
        numbers = np.arange(math.prod(shapes[place])).reshape(shapes[place])
        taken = [p.take(numbers, t.shape).ravel() for t, p in places if p and p.name == place]
        assert sorted(np.concatenate(taken).tolist()) == numbers.ravel().tolist()
    tensors = [t for t, part in places if part is None]
    # Parts of a tensor are all of it, each row once; but OPT has rows before the first position.
    for name in {t.name for t in tensors}:
        parts = [t for t in tensors if t.name == name and t.role != "positions"]
        rows = [row for t in parts for span in t.rows for row in range(*span)]
        if parts and parts[0].rows:
            assert sorted(rows) == list(range(parts[0].whole_shape[0]))
        else:
            assert len(parts) <= 1
        assert all(len(t.rows) == 0 or t.shape[t.turned] == _count(t.rows) for t in parts)


def _count(rows: Rows) -> int:
    return sum(end - first for first, end in rows)


def test_unknown_model_type_names_the_known_and_vllm() -> None:
    known = r"'no_such' is not known\. .*llama, .*llava, .*mistral.*vllm"
    with pytest.raises(UnsupportedModelError, match=known):
        spec(model_type="no_such")
    with pytest.raises(UnsupportedModelError, match="missing"):
        spec(model_type=None)


@pytest.mark.parametrize(
    ("model_type", "near"),
    [("qwen3_vl_txt", "qwen3_vl_text"), ("Llama", "llama"), ("ernie4_5x", "ernie4_5")],
)
def test_unknown_model_type_names_the_nearest(model_type: str, near: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"\(the nearest known is {near}\).*vllm"):
        spec(model_type=model_type)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quantization_config": {"quant_method": "quanto"}}, "quant_method is .quanto."),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ by layer"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"model_type": "gemma3n_text", "hidden_activation": "silu"}, "hidden_activation"),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "all"}, "bidirectional"),
        ({"model_type": "gemma4_text", "hidden_activation": "silu"}, "hidden_activation"),
        (
            {"model_type": "gemma4_text", "per_layer_config": {"0": {"sliding_window": 3}}},
            "per_layer_config changes sliding_window",
        ),
        ({"model_type": "minicpm", "num_experts": 8}, "num_experts is 8"),
        ({"model_type": "exaone4_5", "text_config": {"model_type": "exaone"}}, "'exaone'"),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral4"}}, "mistral4"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
        (
            {"model_type": "gptj", "rotary_dim": 8, "activation_function": "mish"},
            "activation_function is 'mish'",
        ),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "residual"),
        (
            {"model_type": "opt", "ffn_dim": 9, "do_layer_norm_before": False},
            "do_layer_norm_before",
        ),
        ({"model_type": "opt", "ffn_dim": 9, "word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        (
            {"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False},
            "parallel_attn",
        ),
        ({"model_type": "arcee", "hidden_act": "xielu"}, "hidden_act is 'xielu'"),
    ],
)
def test_unsupported(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "short_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "glm", "partial_rotary_factor": 2}, "partial_rotary_factor"),
        ({"model_type": "granite", "residual_multiplier": 0}, "residual_multiplier"),
        ({"model_type": "seed_oss", "attention_out_bias": 1}, "attention_out_bias is 1"),
        ({"model_type": "ernie4_5", "use_bias": "no"}, "use_bias is 'no'"),
        ({"model_type": "exaone4", "sliding_window_pattern": "LLLG"}, "sliding_window_pattern"),
        ({"model_type": "cwm", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "vaultgemma", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({"model_type": "helium", "head_dim": 7}, "head_dim is 7"),
        ({"model_type": "gemma3n_text", "intermediate_size": [8]}, "intermediate_size"),
        (
            {
                "model_type": "gemma3n_text",
                "num_kv_shared_layers": 0,
                "activation_sparsity_pattern": [0.5, 1],
            },
            "activation_sparsity_pattern",
        ),
        (
            {"model_type": "gemma3n_text", "num_kv_shared_layers": 0, "altup_active_idx": 4},
            "altup_active_idx is 4",
        ),
        (
            {"model_type": "gemma3n_text", "hidden_size_per_layer_input": 0},
            "hidden_size_per_layer_input is 0",
        ),
        ({"model_type": "gemma4_text", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 2}, "num_kv_shared_layers is 2"),
        ({"model_type": "gemma4_text", "num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"model_type": "gemma4_text", "per_layer_config": {"1": 3}}, "per_layer_config.1 is 3"),
        ({"model_type": "gemma4_text", "enable_moe_block": True}, "num_experts is missing"),
        ({"model_type": "minicpm", "scale_emb": -1}, "scale_emb is -1"),
        ({"model_type": "minicpm", "sparse_config": {"dense_len": 0}}, "dense_len is 0"),
        ({"model_type": "internlm3", "qkv_bias": 2}, "qkv_bias is 2"),
        ({"model_type": "hyperclovax", "use_post_norm": 1}, "use_post_norm is 1"),
        ({"model_type": "qwen3_vl_text", "rope_scaling": {"mrope_section": [64]}}, "mrope_section"),
        ({"model_type": "glm4v_text", "rope_scaling": {"mrope_section": [9, 9]}}, "mrope_section"),
        (
            {"model_type": "ministral3", "rope_scaling": {"llama_4_scaling_beta": -0.1}},
            "llama_4_scaling_beta is -0.1",
        ),
        (
            {"model_type": "ministral3", "rope_scaling": {"llama_4_scaling_beta": 0.1}},
            "original_max_position_embeddings is missing",
        ),
        ({"model_type": "olmo3", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "olmo", "clip_qkv": -1}, "clip_qkv"),
        ({"model_type": "cohere2", "sliding_window_pattern": 0}, "sliding_window_pattern"),
        ({"model_type": "cohere", "logit_scale": "x"}, "logit_scale"),
        ({"model_type": "gptj", "rotary_dim": 17}, "rotary_dim is 17"),
        (
            {
                "model_type": "hunyuan_v1_dense",
                "rope_scaling": {"type": "dynamic", "factor": 1, "alpha": -1},
            },
            "alpha",
        ),
    ],
)
def test_wrong_values_name_the_key(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(**changes)


def test_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        read_spec(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="no JSON object"):
        read_spec(tmp_path)


HOSTILE: list[Any] = [
    10**30, 10**400, -1, 1e30, float("nan"), "x" * 10**6, [[]], {"a": {"b": []}}, [10**30] * 3, None,
]  # fmt: skip
EXTRA = (
    "rope_scaling", "layer_types", "quantization_config", "rope_theta", "partial_rotary_factor",
    "sliding_window", "num_experts", "use_sliding_window", "text_config", "max_window_layers",
)  # fmt: skip


def paths_of(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*path, key))


def outcome(values: dict[str, Any]) -> str:
    """The error that a config gives; empty where there is a spec of bounded size."""
    try:
        layers = spec_of(HubConfig(values)).num_layers
    except ModelError as error:
        return str(error)
    assert layers <= 10_000
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_of_any_key_does_harm(kind: str) -> None:
    """Whatever stands at a key, there is a spec of bounded size, or a short error."""
    plain = config_values(kind)
    for path in (*paths_of(plain), *((key,) for key in EXTRA)):
        for value in HOSTILE:
            values = copy.deepcopy(plain)
            holder = values
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            assert len(outcome(values)) < 1500, path
