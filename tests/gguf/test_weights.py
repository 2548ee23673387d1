"""Tensors of GGUF files by a folder's names: their rows and types, and files that are not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf.config.reading import config_of
from quire.gguf.weights import GgufSource, open_files
from quire.weights.safetensors import SafetensorsFile
from tests.engines.native.random_models import make_random_model
from tests.gguf.model_files import write_model
from tests.gguf.model_folders import BIASES, make_model_folder
from tests.gguf.model_tensors import interleave
from tests.gguf.same_model import floats, open_model, tensors_of
from tests.gguf.writing import tiny_tensors, write_tiny

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
    attention, ffn = spec.attention, spec.layers[0].ffn
    assert attention is not None
    assert ffn is not None
    assert (attention.qkv_bias, attention.o_bias, ffn.bias) == (True, True, False)
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
    folder = make_model_folder(tmp_path, "qwen3_moe")
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
    assert spec.head.tied
    assert "lm_head.weight" not in source
    source, spec = open_model(write_tiny(tmp_path / "b.gguf"))
    assert not spec.head.tied
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
    assert spec.attention is not None
    assert (spec.num_layers, spec.attention.qkv_bias) == (2, False)
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
