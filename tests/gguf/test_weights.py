"""A model's GGUF file against its folder: the same spec, the same tensors; and files that are not whole.

Files are written by `writing.write_model` and, where its sources are at hand, by llama.cpp's converter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.weights.mxfp4 import block_rows, is_in_blocks
from quire.engines.native.models.layers.delta_net import DeltaNetNames, DeltaNetSpec
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.registry import read_spec, spec_of
from quire.engines.native.models.rope import inverse_frequencies
from quire.engines.native.models.spec import DecoderSpec, RopeSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf.config.reading import config_of
from quire.gguf.weights import GgufSource, GgufTensor, in_folder_order, open_files
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile, WeightsFolder
from tests.engines.native.random_models import make_random_model
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gguf.writing import (
    LLAMA_CPP,
    convert_folders,
    interleave,
    llama_cpp,
    tiny_tensors,
    write_file,
    write_model,
    write_tiny,
)

LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 24.0,
    "beta_slow": 2.0,
}
# llama.cpp has one number for both scales.
LATENT_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LINEAR_OF_FULL_LAYERS = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
BIASES = {"attention_bias": True, "mlp_bias": True}
# llama.cpp's code has the scale of the scores and the pattern of the windows.
GEMMA = {"query_pre_attn_scalar": 24, "sliding_window_pattern": 6, "num_hidden_layers": 7}
# Its converter takes these for granted.
GLM = {"rms_norm_eps": 1e-5, "max_position_embeddings": 64, "head_dim": 16}
NO_BIASES = {"attention_bias": False, "attention_out_bias": False, "mlp_bias": False}
# A file has float32: the scale of the residual stream is one that it holds.
MINICPM = {"num_hidden_layers": 4, "residual_multiplier": 0.75, "rope_parameters": None}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 5.0, 9.0, 15.0, 20.0, 40.0],
    "original_max_position_embeddings": 512,
}
ERNIE = {"intermediate_size": 96}
BAILING = {
    "score_function": "sigmoid",
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 24,
}
HUNYUAN = {
    "moe_topk": [3] * 3,
    "moe_intermediate_size": [40] * 3,
    "num_shared_expert": [1] * 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
INTERNLM2 = {"architectures": ["InternLM2ForCausalLM"], "attention_bias": False}

# kind of `make_random_model`, and its overrides
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama2", {}),
    "llama with grouped heads and biases": ("llama2", {"num_key_value_heads": 2, **BIASES}),
    "llama with one head of keys": ("llama2", {"num_key_value_heads": 1, "head_dim": 32}),
    "llama3": ("llama3", {}),
    "llama3.2": (
        "llama3",
        {"head_dim": 64, "rope_parameters": LLAMA_31, "max_position_embeddings": 131_072},
    ),
    "llama with yarn": ("llama2", {"rope_parameters": YARN}),
    "llama with yarn's scale": (
        "llama2",
        {"rope_parameters": {**YARN, "attention_factor": 1.75}},
    ),
    "llama with linear scaling": (
        "llama2",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "yi": ("yi", {}),
    "mixtral": ("mixtral", {"sliding_window": None}),
    "mistral3": ("mistral3", {}),
    "gpt_oss": ("gpt_oss", {}),
    "granite": ("granite", BIASES),
    "internlm2": ("internlm2", {"attention_bias": False}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "num_hidden_layers": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2 with yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "qwen2_moe": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen3_moe": ("qwen3_moe", {}),
    "olmoe": ("olmoe", {}),
    "granitemoe": ("granitemoe", {}),
    "granitemoe with biases": ("granitemoe", {"attention_bias": True}),
    "granitemoeshared": ("granitemoeshared", {}),
    "glm4_moe": ("glm4_moe", {}),
    "glm4_moe without norms": (
        "glm4_moe",
        {"use_qk_norm": False, "attention_bias": True, "n_group": 1, "topk_group": 1},
    ),
    "solar_open": ("solar_open", {"partial_rotary_factor": 1.0}),
    "bailing_moe_v2": ("bailing_moe_v2", BAILING),
    "minimax_m2": ("minimax_m2", {"scoring_func": "sigmoid"}),
    "ernie4_5_moe": ("ernie4_5_moe", ERNIE),
    "ernie4_5_moe in every other layer": (
        "ernie4_5_moe",
        {**ERNIE, "moe_layer_interval": 2, "moe_layer_start_index": 0, "num_hidden_layers": 4},
    ),
    "dots1": ("dots1", {"num_key_value_heads": 4, "scoring_func": "sigmoid"}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", HUNYUAN),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"num_hidden_layers": 5}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3_text": ("gemma3_text", GEMMA),
    "gemma3_text with linear scaling": (
        "gemma3_text",
        {**GEMMA, "rope_parameters": LINEAR_OF_FULL_LAYERS},
    ),
    "gemma3": ("gemma3", GEMMA),
    "phi3": ("phi3", {}),
    "phi4_mini": ("phi4_mini", {}),
    "exaone4": ("exaone4", {"num_hidden_layers": 5, "sliding_window_pattern": 4}),
    "exaone4 without windows": ("exaone4_full", {"rope_parameters": LLAMA_31}),
    "exaone4_5": ("exaone4_5", {}),
    "ernie4_5": ("ernie4_5", {}),
    "ernie4_5 without biases": ("ernie4_5", {"use_bias": False}),
    "internlm3": ("internlm3", NO_BIASES),
    "minicpm": ("minicpm", MINICPM),
    "minicpm with longrope": ("minicpm", {**MINICPM, "rope_parameters": LONGROPE}),
    "ministral3": ("ministral3", {}),
    "mistral3 of ministral3": ("mistral3_of_ministral3", {"tie_word_embeddings": True}),
    "qwen3_vl": ("qwen3_vl", {}),
    "seed_oss": ("seed_oss", {"attention_out_bias": False}),
    "glm": ("glm", GLM),
    "glm4": ("glm4", {}),
    "granite 4 h": ("granite4_h", {"max_position_embeddings": 2**20, "intermediate_size": 72}),
    "granite 4 h with experts": ("granite4_h_moe", {"max_position_embeddings": 2**20}),
    "falcon_h1": ("falcon_h1_normed", {"ssm_out_multiplier": 1.0, "head_dim": 16}),
    "falcon_h1 without a norm": (
        "falcon_h1_normed",
        {"ssm_out_multiplier": 1.0, "mamba_rms_norm": False, "head_dim": 16},
    ),
    "lfm2_moe": ("lfm2_moe", {"routed_scaling_factor": 1.0}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "glm4 with biases": ("glm4", {"attention_bias": True}),
}

OLD_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", {}),
    "cohere2": (
        "cohere2",
        {"sliding_window_pattern": 4, "num_hidden_layers": 5},
    ),
    "starcoder2": ("starcoder2", {"sliding_window": None, "hidden_act": "gelu_pytorch_tanh"}),
    "stablelm": ("stablelm", {}),
    "phi2": ("phi", {"intermediate_size": 256}),
    "gpt2": ("gpt2", {}),
    "bloom": ("bloom", {"seq_length": 512}),
    "falcon": ("falcon", {"bias": False, "max_position_embeddings": 2048, "num_kv_heads": 1}),
    "falcon_40b": ("falcon_new", {"max_position_embeddings": 2048}),
    "falcon_11b": ("falcon_11b", {"max_position_embeddings": 2048}),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {"mlp_bias": False}),
    "nemotron": ("nemotron", {"partial_rotary_factor": 0.5}),
    "olmo": ("olmo", {}),
}
MODELS |= OLD_MODELS

# What the converter leaves out, or does in another way.
OWN_MODELS = {
    **MODELS,
    "mistral with a window": ("mistral", {}),
    "mixtral with a window": ("mixtral", {"sliding_window": 24}),
    "internlm2 with biases": ("internlm2", {}),
    "glm with large heads": ("glm", {}),
    "hunyuan": ("hunyuan", {}),
    # It asks for a key of NeoX that transformers takes away.
    "gpt_neox": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.25}),
    "pythia": ("gpt_neox", {"rotary_pct": 0.25}),
    "stablelm_12b": ("stablelm_12b", {}),  # the converter loses its norms of heads
    "cohere with norms of heads": ("cohere_norms", {"tie_word_embeddings": True}),
    "nemotron with biases": ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    "starcoder2 without biases": ("starcoder2_plain", {"hidden_act": "gelu_pytorch_tanh"}),
    "neox without biases": ("gpt_neox_serial", {}),
}

# What quire reads, and does not write.
READ_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3_next", {"mlp_only_layers": []}),
    "qwen3_5": ("qwen3_5", {}),
    "qwen3_5_text": ("qwen3_5_text", {}),
    "qwen3_5_moe": ("qwen3_5_moe", {}),
    "deepseek_v2": ("deepseek_v2", {}),
    "deepseek_v2 in groups": ("deepseek_v2_groups", {}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": LATENT_YARN}),
    "youtu": ("youtu", {"rope_parameters": LATENT_YARN}),
}
CONVERTED = {**MODELS, **READ_MODELS}

# Keys of folders on the hub that transformers writes no more, and the converter asks for.
_OLD_KEYS = {
    "cohere2": {"rotary_pct": 1.0},
    "gpt2": {"n_ctx": 256},
}
_FREE = ("names", "model_type", "rope", "local_rope", "attention_multiplier", "mixers")


def make(tmp_path: Path, name: str) -> Path:
    kind, overrides = {**OWN_MODELS, **READ_MODELS}[name]
    folder = make_random_model(tmp_path / "folder", kind, **overrides)
    if kind in _OLD_KEYS:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | _OLD_KEYS[kind]))
    if kind.startswith(
        "granite4_h"
    ):  # llama.cpp's converter knows the names of its first configs alone
        path = folder / "config.json"
        for now, before in (("linear_attention", "mamba"), ("full_attention", "attention")):
            path.write_text(path.read_text().replace(f'"{now}"', f'"{before}"'))
    return folder


def open_model(path: Path) -> tuple[GgufSource, DecoderSpec]:
    files = open_files(path)
    config = config_of(files)
    return GgufSource(files, config), spec_of(HubConfig(config))


def assert_same_model(folder: Path, file: Path) -> None:
    """The file's spec and tensors are the folder's, whatever their names."""
    expected = read_spec(folder)
    source, found = open_model(file)
    same = {name: getattr(found, name) for name in _FREE}
    if expected.experts is not None and found.experts is not None:
        same["experts"] = dataclasses.replace(expected.experts, names=found.experts.names)
    assert found == dataclasses.replace(expected, **same)
    assert found.attention_scale == expected.attention_scale
    assert [bare(one) for one in found.mixers] == [bare(one) for one in expected.mixers]
    for layer in range(expected.num_layers):
        assert_same_rope(found.rope_of(layer), expected.rope_of(layer), expected.head_dim)
    stored = SafetensorsFile(folder / "model.safetensors")
    asked: set[str] = set()
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert ours.role == theirs.role
        tensor = source.tensor(ours.name)
        values = in_folder_order(floats(tensor), tensor.tiles)
        if ours.role == "router_correction":  # in some folders a matrix of one row
            values = values.reshape(ours.shape)
        assert values.shape == ours.whole_shape
        mine, own = rows(values, ours), of_folder(stored, theirs)
        if ours.offset:  # the file has the sum, in float32
            mine, own = mine + np.float32(1), own + np.float32(1)
        assert_same_values(ours, mine, own)
        asked.add(ours.name)
    assert asked == set(source.names())
    assert source.left_aside == ()


def bare(mixer: TokenMixer | None) -> TokenMixer | None:
    """A mixer without what belongs to the place where its tensors are."""
    if isinstance(mixer, LatentAttentionSpec):
        return dataclasses.replace(mixer, is_split=False)
    if not isinstance(mixer, DeltaNetSpec):
        return mixer
    return dataclasses.replace(mixer, names=DeltaNetNames(), tiled_output=False)


def assert_same_values(tensor: TensorSpec, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if tensor.role in ("a_log", "log_decay"):  # the file has -exp of it
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=tensor.name)


def assert_same_rope(found: RopeSpec | None, expected: RopeSpec | None, head_dim: int) -> None:
    """Bit for bit the same angles, for short texts and for long ones."""
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    assert (found.positions, found.partial) == (expected.positions, expected.partial)
    for length in (expected.positions, 4 * expected.positions):
        ours, scale = inverse_frequencies(found, head_dim, length)
        theirs, their_scale = inverse_frequencies(expected, head_dim, length)
        np.testing.assert_array_equal(ours, theirs)
        assert np.float32(scale) == np.float32(their_scale)


def tensors_of(spec: DecoderSpec) -> Iterator[TensorSpec]:
    yield from spec.tensors()


def folder_tensor(stored: SafetensorsFile, name: str) -> NDArray[Any]:
    """Of a folder with a tower or without one."""
    own = {
        one.replace("model.language_model.", "model.")
        .replace("language_model.", "")
        .replace("embed_out.", "lm_head."): one
        for one in stored.names()
    }
    return stored.tensor(own[name]).values


def of_folder(stored: SafetensorsFile, spec: TensorSpec) -> NDArray[Any]:
    """A tensor, which may be a part of another one."""
    names = set(stored.names())
    for part in spec.within:
        if part.name in names and (spec.name not in names or part.name == spec.name):
            return part.take(folder_tensor(stored, part.name), spec.shape)
    pieces = [spec.name.format(index) for index in range(spec.pieces or 1)]
    values = np.concatenate([np.atleast_1d(folder_tensor(stored, name)) for name in pieces])
    return rows((values.T if spec.transposed else values).reshape(spec.whole_shape), spec)


def rows(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if not spec.rows:
        return values
    taken = np.concatenate([values[first:end] for first, end in spec.rows])
    return taken.T if spec.turned else taken


def floats(tensor: GgufTensor) -> NDArray[np.float32]:
    assert tensor.type.name == "F32"
    assert tensor.data.shape == (np.prod(tensor.shape[:-1], dtype=int), 4 * tensor.shape[-1])
    return tensor.data.view(np.float32).reshape(tensor.shape)


# ---- whole models


@pytest.mark.parametrize("name", [*OWN_MODELS, *READ_MODELS])
def test_model_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    "name",
    ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "minimax_m2", "ernie4_5_moe"],
)
@pytest.mark.parametrize("experts", ["apart", "gate_up"])
def test_experts_apart_or_gate_and_up_fused(tmp_path: Path, name: str, experts: Any) -> None:
    """Experts apart are llama.cpp #10244 of files of before April 2024."""
    folder = make(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", experts=experts))


@pytest.mark.parametrize(
    "name",
    ["llama with grouped heads and biases", "qwen2", "glm", "gemma2", "internlm2", "granite"],
)
def test_fused_queries_keys_and_values(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path, name)
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", fused_qkv=True))


def test_first_files_of_qwen3_next(tmp_path: Path) -> None:
    """They have all maps of a delta net in one tensor, in the order of a folder."""
    folder = make(tmp_path, "qwen3_next")
    stored, tensors = SafetensorsFile(folder / "model.safetensors"), dict[str, Any]()
    for name in stored.names():
        if "in_proj_qkvz" in name:
            block = f"blk.{name.split('.')[2]}."
            tensors[f"{block}ssm_in.weight"] = np.array(stored.tensor(name).values)
            tensors |= {f"{block}attn_qkv.weight": None, f"{block}attn_gate.weight": None}
    assert len(tensors) == 9
    assert_same_model(folder, write_model(folder, tmp_path / "model.gguf", tensors=tensors))


def test_text_of_qwen2_vl(tmp_path: Path) -> None:
    """In a text the three positions of M-RoPE are equal, so the model is a Qwen2."""
    folder = make(tmp_path, "qwen2")
    sections = {".rope.dimension_sections": [np.int32(2), np.int32(3), np.int32(3)]}  # of 4
    path = tmp_path / "model.gguf"
    write_model(folder, path, architecture="qwen2vl", metadata=sections)
    assert_same_model(folder, path)


FUSED = ("llama with grouped heads and biases", "qwen2", "gemma2")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By name: a folder and the file that llama.cpp's converter made of it."""
    if llama_cpp() is None:
        pytest.skip(f"{LLAMA_CPP} does not name the folder of llama.cpp's sources")
    jobs: dict[str, tuple[Path, Path, list[str]]] = {}
    for name in CONVERTED:
        place = tmp_path_factory.mktemp("model")
        # Without the layers that guess further tokens, which the folders lack.
        options = ["--no-mtp"] if name.startswith("qwen3_") and name in READ_MODELS else []
        jobs[name] = make(place, name), place / "model.gguf", options
        if name in FUSED:
            jobs[f"{name}, fused"] = jobs[name][0], place / "fused.gguf", ["--fuse-qkv"]
    convert_folders(jobs.values())
    return {name: (folder, file) for name, (folder, file, _) in jobs.items()}


@pytest.mark.parametrize("name", [*CONVERTED, *(f"{name}, fused" for name in FUSED)])
def test_model_that_llama_cpp_converted(converted: dict[str, tuple[Path, Path]], name: str) -> None:
    assert_same_model(*converted[name])


def test_blocks_that_llama_cpp_converted(tmp_path: Path) -> None:
    """Its converter and quire put the codes of a folder in MXFP4 in the same order."""
    if llama_cpp() is None:
        pytest.skip(f"{LLAMA_CPP} does not name the folder of llama.cpp's sources")
    folder, _ = make_mxfp4_model(tmp_path, dtype="bfloat16")
    convert_folders([(folder, tmp_path / "model.gguf", [])])
    source, found = open_model(tmp_path / "model.gguf")
    stored, expected = WeightsFolder(folder), read_spec(folder)
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        if is_in_blocks(stored, theirs):
            tensor = source.tensor(ours.name)
            assert tensor.type.name == "MXFP4"
            np.testing.assert_array_equal(tensor.data, block_rows(stored, theirs)[:])


# ---- rows


def test_queries_and_keys_are_taken_out_of_order(tmp_path: Path) -> None:
    """transformers #31766 and vllm-metal #480: keys by their own number of heads."""
    places = np.repeat(np.arange(64, dtype=np.float32)[:, None], 64, axis=1)
    tensors = {
        "blk.0.attn_q.weight": interleave(places, 4),
        "blk.0.attn_k.weight": interleave(places[:32], 2),
        "blk.0.attn_v.weight": places[:32],
    }
    source, _ = open_model(write_tiny(tmp_path / "a.gguf", tensors=tensors))
    for role in "qkv":
        found = floats(source.tensor(f"model.layers.0.self_attn.{role}_proj.weight"))
        np.testing.assert_array_equal(found, places[: len(found)])
    # Row 1 of the file is row 8 of the folder: the first of the second half of 16.
    assert tensors["blk.0.attn_q.weight"][1, 0] == 8


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma", "olmo2", "chatglm", "glm4"])
def test_other_architectures_keep_their_order(tmp_path: Path, architecture: str) -> None:
    source, _ = open_model(write_tiny(tmp_path / "a.gguf", architecture))
    stored = tiny_tensors(architecture)["blk.1.attn_q.weight"]
    found = source.tensor("model.layers.1.self_attn.q_proj.weight")
    np.testing.assert_array_equal(floats(found), stored)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "BF16", "F16"])
def test_rows_keep_their_type_and_bytes(tmp_path: Path, kind: str) -> None:
    """Rows move whole: each has the bytes that it has when the folder's tensor is quantised."""
    sizes = {"num_key_value_heads": 2, "intermediate_size": 96, **BIASES}
    folder = make_random_model(tmp_path / "folder", "llama2", **sizes)
    source, spec = open_model(write_model(folder, tmp_path / "a.gguf", matrices=kind))
    stored = SafetensorsFile(folder / "model.safetensors")
    for tensor in tensors_of(spec):
        found = source.tensor(tensor.name)
        values = stored.tensor(tensor.name).values
        if len(tensor.shape) == 1:
            np.testing.assert_array_equal(floats(found), values)
            continue
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        assert found.type.name == kind
        np.testing.assert_array_equal(found.data, expected.view(np.uint8))


def test_experts_keep_their_type_and_bytes(tmp_path: Path) -> None:
    folder = make_random_model(
        tmp_path / "folder", "mixtral", sliding_window=None, intermediate_size=64
    )
    source, spec = open_model(write_model(folder, tmp_path / "a.gguf", matrices="Q5_0"))
    stored = SafetensorsFile(folder / "model.safetensors")
    experts = [one for one in tensors_of(spec) if ".experts." in one.name]
    assert len(experts) == 3 * 5 * 3
    for tensor in experts:
        values = stored.tensor(tensor.name).values
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q5_0)
        np.testing.assert_array_equal(source.tensor(tensor.name).data, expected)


def test_what_is_in_order_is_mapped(tmp_path: Path) -> None:
    files = open_files(write_tiny(tmp_path / "a.gguf"))
    source = GgufSource(files, config_of(files))
    mapped = {
        role: np.may_share_memory(
            source.tensor(f"model.layers.0.self_attn.{role}_proj.weight").data,
            files[0].data(files[0].tensors[f"blk.0.attn_{role}.weight"]),
        )
        for role in "qv"
    }
    assert mapped == {"q": False, "v": True}
    value = source.tensor("model.layers.0.self_attn.v_proj.weight").data
    (mapped_file,) = source.mapped_files([value])
    assert mapped_file.path == tmp_path / "a.gguf"
    assert not mapped_file.is_overwritten()
    assert source.mapped_files([value.copy()]) == ()


def test_a_bias_that_no_layer_has_is_zeros(tmp_path: Path) -> None:
    """llama.cpp takes any of the biases; the engine has those of all maps of attention."""
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {}
    for layer in range(2):
        tensors[f"blk.{layer}.attn_q.bias"] = random.standard_normal(64).astype(np.float32)
        tensors[f"blk.{layer}.attn_k.bias"] = random.standard_normal(32).astype(np.float32)
    source, spec = open_model(write_tiny(tmp_path / "a.gguf", tensors=tensors))
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias) == (True, True, False)
    k = floats(source.tensor("model.layers.1.self_attn.k_proj.bias"))
    np.testing.assert_array_equal(interleave(k, 2), tensors["blk.1.attn_k.bias"])
    for role, size in (("v", 32), ("o", 64)):
        zeros = floats(source.tensor(f"model.layers.1.self_attn.{role}_proj.bias"))
        np.testing.assert_array_equal(zeros, np.zeros(size))
    del tensors["blk.1.attn_q.bias"]
    path = write_tiny(tmp_path / "b.gguf", tensors=tensors)
    with pytest.raises(WeightsError, match=r"lacks blk\.1\.attn_q\.bias"):
        open_model(path)


def test_biases_that_are_not_added_are_refused(tmp_path: Path) -> None:
    bias = {"blk.0.attn_output.bias": np.ones(64, np.float32)}
    path = write_tiny(tmp_path / "a.gguf", "qwen2", tensors=bias)
    with pytest.raises(UnsupportedModelError, match=r"biases of attn_output.*for qwen2"):
        open_model(path)
    bias = {"blk.0.attn_norm.bias": np.ones(64, np.float32)}
    path = write_tiny(tmp_path / "b.gguf", tensors=bias)
    with pytest.raises(UnsupportedModelError, match=r"does not read for llama: blk\.0\.attn_norm"):
        open_model(path)


# ---- Gemma's norms


def test_the_sum_of_a_norm_is_kept(tmp_path: Path) -> None:
    """Of w in a folder the file has w + 1 in float32; taking 1 off and adding it gives that again."""
    random = np.random.default_rng(1)
    weights = random.standard_normal(1 << 16) * 10.0 ** random.integers(-12, 5, 1 << 16)
    sums = np.float32(1) + weights.astype(np.float32)
    assert len(np.unique(sums)) > 1 << 15
    np.testing.assert_array_equal((sums - np.float32(1)) + np.float32(1), sums)
    norm = sums[:64]
    stored = {"output_norm.weight": norm, "blk.0.attn_norm.weight": norm.astype(np.float16)}
    stored |= {
        "blk.1.attn_norm.weight": (
            gguf.quants.quantize(norm, gguf.GGMLQuantizationType.BF16),
            "BF16",
        )
    }
    source, spec = open_model(write_tiny(tmp_path / "a.gguf", "gemma", tensors=stored))
    final = floats(source.tensor("model.norm.weight"))
    np.testing.assert_array_equal(final, norm - np.float32(1))
    assert {one.offset for one in tensors_of(spec) if one.name == "model.norm.weight"} == {1.0}
    half = floats(source.tensor("model.layers.0.input_layernorm.weight"))
    np.testing.assert_array_equal(half + 1, norm.astype(np.float16).astype(np.float32))
    half = floats(source.tensor("model.layers.1.input_layernorm.weight"))
    np.testing.assert_allclose(half + 1, norm, rtol=1 / 256)


def test_a_quantised_norm_of_gemma_is_refused(tmp_path: Path) -> None:
    norm = gguf.quants.quantize(np.ones((1, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    stored = {"blk.1.ffn_norm.weight": (norm, "Q8_0")}
    source, _ = open_model(write_tiny(tmp_path / "a.gguf", "gemma", tensors=stored))
    with pytest.raises(WeightsError, match=r"blk\.1\.ffn_norm\.weight is Q8_0; it must be F32"):
        source.tensor("model.layers.1.post_attention_layernorm.weight")


# ---- what is missing, and what is more


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """aprender #2535: another reader said "truncated"."""
    folder = make(tmp_path, "qwen3_moe")
    gone = {"blk.1.ffn_up_exps.weight": None}
    path = write_model(folder, tmp_path / "a.gguf", tensors=gone)
    name = r"blk\.1\.ffn_up_exps\.weight, which a folder has as model\.layers\.1\.mlp\.experts\.0"
    with pytest.raises(WeightsError, match=f"lacks {name}"):
        open_model(path)
    path = write_tiny(tmp_path / "b.gguf", tensors={"token_embd.weight": None})
    with pytest.raises(WeightsError, match=r"lacks token_embd\.weight"):
        open_model(path)


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    source, _ = open_model(write_tiny(tmp_path / "a.gguf"))
    assert "model.norm.weight" in source
    assert "model.norm.bias" not in source
    with pytest.raises(WeightsError, match=r"a\.gguf: the weights lack model\.norm\.bias"):
        source.tensor("model.norm.bias")


def test_a_head_that_is_missing_is_the_embeddings(tmp_path: Path) -> None:
    """llama.cpp #6720."""
    source, spec = open_model(write_tiny(tmp_path / "a.gguf", tensors={"output.weight": None}))
    assert spec.tied_embeddings
    assert "lm_head.weight" not in source
    source, spec = open_model(write_tiny(tmp_path / "b.gguf"))
    assert not spec.tied_embeddings
    assert source.tensor("lm_head.weight").shape == (70, 64)


def test_embeddings_may_have_more_rows_than_there_are_tokens(tmp_path: Path) -> None:
    """llama.cpp #5910."""
    tokens = {"tokenizer.ggml.tokens": [f"<{n}>" for n in range(64)], ".vocab_size": 64}
    _, spec = open_model(write_tiny(tmp_path / "a.gguf", metadata=tokens))
    assert spec.vocab_size == 70


def test_tensors_of_other_parts_are_left_aside(tmp_path: Path) -> None:
    """llama.cpp #27349: Ollama's files of Gemma 3 have the tower in them."""
    more = {
        "v.blk.0.attn_q.weight": np.ones((8, 8), np.float32),
        "mm.input_projection.weight": np.ones((8, 8), np.float32),
        "blk.0.attn_rot_embd.weight": np.ones(8, np.float32),
    }
    source, _ = open_model(write_tiny(tmp_path / "a.gguf", "gemma3", tensors=more))
    assert source.left_aside == tuple(sorted(more))


def test_blocks_that_only_predict_further_tokens_are_left_aside(tmp_path: Path) -> None:
    more = {".block_count": 3, ".nextn_predict_layers": 1}
    extra = {
        "blk.2.nextn.eh_proj.weight": np.ones((8, 8), np.float32),
        "blk.2.attn_q.bias": np.ones(64, np.float32),
    }
    path = write_tiny(tmp_path / "a.gguf", "glm4", tensors=extra, metadata=more)
    source, spec = open_model(path)
    assert (spec.num_layers, spec.qkv_bias) == (2, False)
    assert source.left_aside == ("blk.2.attn_q.bias", "blk.2.nextn.eh_proj.weight")


def test_tensors_that_are_not_read_are_refused(tmp_path: Path) -> None:
    more = {
        f"blk.{layer}.{name}": np.ones(1, np.float32)
        for layer in range(2)
        for name in ("attn_q.scale", "attn_sinks.weight")
    }
    path = write_tiny(tmp_path / "a.gguf", tensors=more)
    with pytest.raises(
        UnsupportedModelError, match=r"blk\.0\.attn_q\.scale, .*, blk\.1\.attn_q\.scale and 1 more"
    ):
        open_model(path)


def test_shapes_are_those_of_the_metadata(tmp_path: Path) -> None:
    wrong = {"blk.1.ffn_down.weight": np.ones((96, 64), np.float32)}
    path = write_tiny(tmp_path / "a.gguf", tensors=wrong)
    with pytest.raises(WeightsError, match=r"ffn_down\.weight has shape \(96, 64\).*\(64, 96\)"):
        open_model(path)
    # A dimension of 1 before the others says nothing.
    plain = {"blk.1.ffn_norm.weight": np.ones((1, 64), np.float32)}
    source, _ = open_model(write_tiny(tmp_path / "b.gguf", tensors=plain))
    assert source.tensor("model.layers.1.post_attention_layernorm.weight").shape == (64,)


def test_phi3_with_queries_keys_and_values_apart(tmp_path: Path) -> None:
    stored = tiny_tensors("llama")
    parts = {
        f"blk.{layer}.attn_{role}.weight": stored[f"blk.{layer}.attn_{role}.weight"]
        for layer in range(2)
        for role in "qkv"
    }
    gone = {f"blk.{layer}.attn_qkv.weight": None for layer in range(2)}
    path = write_tiny(tmp_path / "a.gguf", "phi3", tensors={**parts, **gone})
    source, _ = open_model(path)
    found = floats(source.tensor("model.layers.0.self_attn.qkv_proj.weight"))
    np.testing.assert_array_equal(found[64:96], parts["blk.0.attn_k.weight"])
    half = {"blk.0.attn_v.weight": parts["blk.0.attn_v.weight"].astype(np.float16)}
    path = write_tiny(tmp_path / "b.gguf", "phi3", tensors={**parts, **gone, **half})
    with pytest.raises(
        WeightsError, match=r"blk\.0\.attn_v\.weight are of different types \(F16, F"
    ):
        open_model(path)[0].tensor("model.layers.0.self_attn.qkv_proj.weight")


def test_a_quantised_bias_is_refused_where_its_elements_move(tmp_path: Path) -> None:
    bias = gguf.quants.quantize(np.ones((1, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    stored = {f"blk.{layer}.attn_q.bias": (bias, "Q8_0") for layer in range(2)}
    source, _ = open_model(write_tiny(tmp_path / "a.gguf", tensors=stored))
    with pytest.raises(WeightsError, match=r"blk\.0\.attn_q\.bias is Q8_0.*must be F32"):
        source.tensor("model.layers.0.self_attn.q_proj.bias")


# ---- several files


def split(tmp_path: Path, **options: Any) -> list[Path]:
    """A tiny model in several files."""
    (tmp_path / "parts").mkdir()
    write_tiny(tmp_path / "parts" / "a.gguf", split_max_tensors=8, **options)
    return sorted((tmp_path / "parts").iterdir())


def test_a_model_in_several_files_is_the_same(tmp_path: Path) -> None:
    whole, _ = open_model(write_tiny(tmp_path / "whole.gguf"))
    paths = split(tmp_path)
    assert [path.name for path in paths] == [f"a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    source, _ = open_model(paths[0])
    assert source.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(source.tensor(name).data, whole.tensor(name).data)
    whole = [source.tensor(name).data for name in source.names()]
    assert [file.path for file in source.mapped_files(whole)] == paths


def test_the_first_file_may_hold_no_tensors(tmp_path: Path) -> None:
    paths = split(tmp_path, small_first_shard=True)
    files = open_files(paths[0])
    assert len(files) == 4
    assert not files[0].tensors
    assert GgufSource(files, config_of(files)).left_aside == ()


def test_another_part_than_the_first_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    first = r"is part 2 of 3 of a model: give the first part, a-00001-of-00003\.gguf"
    with pytest.raises(WeightsError, match=first):
        open_files(paths[1])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[2].unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks a-00003-of-00003\.gguf$"):
        open_files(paths[0])
    paths[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"a-00002-of-00003\.gguf and 1 more"):
        open_files(paths[0])


def test_parts_with_each_others_names_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    first, second = (path.read_bytes() for path in paths[1:])
    paths[1].write_bytes(second)
    paths[2].write_bytes(first)
    with pytest.raises(WeightsError, match=r"says that it is part 3 of 3, .* part 2 of 3"):
        open_files(paths[0])


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    for name in ("model.gguf", "a-00001-of-00004.gguf", "a-00002-of-00003.gguf"):
        renamed = paths[0].rename(tmp_path / name)
        with pytest.raises(WeightsError, match=r"called so, such as model-00001-of-00003\.gguf"):
            open_files(renamed)
        paths[0] = renamed


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    keys = {
        "split.no": np.uint16(2), "split.count": np.uint16(3), "split.tensors.count": np.int32(21)
    }  # fmt: skip
    write_file(paths[2], keys, {"output.weight": np.ones((70, 64), np.float32)})
    with pytest.raises(WeightsError, match=r"its 3 parts have 17 tensors, and .* is 21"):
        open_files(paths[0])
    write_file(paths[2], {**keys, "split.count": np.uint16(4)}, {"b": np.ones(1, np.float32)})
    with pytest.raises(WeightsError, match="says that it is part 3 of 4"):
        open_files(paths[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    keys = {
        "split.no": np.uint16(2), "split.count": np.uint16(3), "split.tensors.count": np.int32(21)
    }  # fmt: skip
    names = ["token_embd.weight", *list(open_files(paths[0])[2].tensors)[1:]]
    write_file(paths[2], keys, {name: np.ones(1, np.float32) for name in names})
    with pytest.raises(WeightsError, match=r"token_embd\.weight is in another part"):
        config_of(open_files(paths[0]))


@pytest.mark.parametrize("value", ["three", -1, 1 << 17, True, 2.0])
def test_a_number_of_parts_that_is_none(tmp_path: Path, value: Any) -> None:
    value = np.int64(value) if isinstance(value, int) and not isinstance(value, bool) else value
    path = write_tiny(tmp_path / "a-00001-of-00002.gguf", metadata={"split.count": value})
    with pytest.raises(WeightsError, match=r"split\.count is .*; it must be 0 to 65535"):
        open_files(path)


@pytest.mark.parametrize(
    "name", ["a.gguf.part1of2", "a.gguf-split-a", "a.Q8_0.gguf.part-b", "a.gguf-part-aa"]
)
def test_a_plain_cut_is_refused_with_a_hint(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(write_tiny(tmp_path / "a.gguf").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="Join the pieces in order"):
        open_files(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no file"):
        open_files(tmp_path / "a.gguf")
