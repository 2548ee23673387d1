"""What a file's config.json says: what is only in llama.cpp's code, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.models.registry import DECODERS, spec_of
from quire.engines.native.models.rope import inverse_frequencies
from quire.engines.native.models.spec import DecoderSpec, RopeSpec
from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.gguf.architectures.table import ARCHITECTURES
from quire.gguf.config.biases import BIASES
from quire.gguf.config.header import shortest
from quire.gguf.config.reading import config_of
from quire.gguf.config.rope import share
from quire.gguf.weights import GgufSource, open_files
from quire.weights.hub_config import HubConfig
from tests.gguf import writing
from tests.gguf.writing import TINY, llama3_divisors, write_file, write_tiny


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """The config.json of a tiny file with these keys and tensors."""

    def make(
        architecture: str = "llama", tensors: dict[str, Any] | None = None, **keys: Any
    ) -> dict[str, Any]:
        metadata = {key.replace("__", "."): value for key, value in keys.items()}
        path = write_tiny(tmp_path / "a.gguf", architecture, tensors, metadata)
        return config_of(open_files(path))

    return make


@pytest.fixture
def spec(config: Any) -> Any:
    """The spec of a tiny file with these keys and tensors. `__` stands for the dot in a key."""

    def make(*args: Any, **keys: Any) -> DecoderSpec:
        return spec_of(HubConfig(config(*args, **keys)))

    return make


# ---- the table


def test_every_type_that_the_engine_runs_has_an_architecture() -> None:
    """But towers, whose text has its own, and what llama.cpp has no converter for."""
    served = {one for architecture in ARCHITECTURES.values() for one in architecture.model_types}
    without = {"llava", "qwen2_audio", "ministral", "glm4v", "glm4v_text"}
    without |= {"cwm", "helium", "hyperclovax", "mimo", "telechat3", "vaultgemma"}
    without |= {"bamba", "nemotron_h"}
    without |= {"minicpm3"}  # latent attention, whose files are not read
    without |= {"flex_olmo", "llama4", "llama4_text", "olmo_hybrid"}
    without |= {"gemma3n", "gemma3n_text", "gemma4", "gemma4_text"}
    without |= {"gptj", "opt"}  # llama.cpp does not compute them
    assert set(DECODERS) - served == without
    assert served <= set(DECODERS)
    assert {one.model_type for one in ARCHITECTURES.values()} <= set(DECODERS)
    assert set(BIASES) <= set(DECODERS)


def test_the_table_is_that_of_llama_cpp() -> None:
    assert set(ARCHITECTURES) <= set(gguf.MODEL_ARCH_NAMES.values())
    found = {name: set(one.model_types) for name, one in ARCHITECTURES.items()}
    assert found == {name: set(types) for name, types in writing.ARCHITECTURES.items()}
    assert all(one.models for one in ARCHITECTURES.values())


def test_a_tiny_file_has_these_sizes(config: Any) -> None:
    assert config() == {
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": 70,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        "intermediate_size": 96,
        "attention_bias": False,
        "mlp_bias": False,
    }


# ---- constants that no file has


def layer_types(pattern: str) -> list[str]:
    return [{"w": "sliding_attention", "f": "full_attention"}[one] for one in pattern]


def test_gemma3_has_full_attention_in_every_sixth_layer(config: Any) -> None:
    """mobius #458."""
    found = config("gemma3", **{".block_count": 13, ".attention.sliding_window": 9})
    assert found["layer_types"] == layer_types("wwwwwfwwwwwfw")
    assert found["sliding_window"] == 9
    ropes = found["rope_parameters"]
    assert ropes["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}


def test_gemma3_without_a_window_has_full_attention_everywhere(config: Any) -> None:
    found = config("gemma3", **{".block_count": 7})
    assert (found["sliding_window"], found["layer_types"]) == (None, layer_types("f" * 7))


def test_gemma2_has_a_window_in_every_other_layer(config: Any) -> None:
    found = config("gemma2", **{".block_count": 5})
    assert (found["sliding_window"], found["layer_types"]) == (4096, layer_types("wfwfw"))
    found = config("gemma2", **{".block_count": 5, ".attention.sliding_window": 100})
    assert found["sliding_window"] == 100


def test_olmo3_has_full_attention_in_every_fourth_layer(config: Any) -> None:
    found = config("olmo2", **{".block_count": 9, ".attention.sliding_window": 9})
    assert found["model_type"] == "olmo3"
    assert found["layer_types"] == layer_types("wwwfwwwfw")
    assert config("olmo2")["model_type"] == "olmo2"


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (3, "wwfww"),
        (np.int32(2), "wfwfw"),
        (1, "fffff"),
        (0, "wwwww"),
        ([True, False, False, True, True], "wffww"),
        ([np.uint32(0), np.uint32(0), np.uint32(1), np.uint32(1), np.uint32(0)], "ffwwf"),
    ],
)
def test_a_pattern_of_windows_is_a_number_or_a_list(
    config: Any, architecture: str, pattern: Any, expected: str
) -> None:
    """hermes-agent #109554: the number was taken for a list."""
    keys = {".attention.sliding_window": 9, ".attention.sliding_window_pattern": pattern}
    found = config(architecture, **keys, **{".block_count": 5})
    assert found["layer_types"] == layer_types(expected)


def test_mistrals_window(config: Any) -> None:
    """llama.cpp has none for `llama`; who writes the key means it."""
    found = config(**{".attention.sliding_window": 9})
    assert (found["model_type"], found["sliding_window"]) == ("mistral", 9)
    assert config("mistral3")["sliding_window"] is None
    keys = {".attention.sliding_window": 9, ".attention.sliding_window_pattern": [True, False]}
    found = config(**keys)
    assert (found["model_type"], found["layer_types"]) == ("ministral", layer_types("wf"))
    with pytest.raises(UnsupportedModelError, match=r"phi3\.attention\.sliding_window_pattern"):
        config("phi3", **keys)


def test_phi3_has_the_window_of_transformers(spec: Any) -> None:
    """llama.cpp #7709: it reads the key and does not use it."""
    assert spec("phi3", **{".attention.sliding_window": 100}).windows == (100, 100)
    assert spec("phi3", **{".attention.sliding_window": 0}).windows == (0, 0)


def test_a_window_that_is_not_known_is_said(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = config("qwen2", **{".attention.sliding_window": 100})
    assert "sliding_window" not in found
    assert "qwen2.attention.sliding_window is 100. It is not used" in caplog.text
    caplog.clear()
    config("qwen2", **{".attention.sliding_window": 128})
    assert not caplog.text


@pytest.mark.parametrize(
    ("architecture", "layers", "divisor"),
    [("gemma3", 62, 20), ("gemma3", 46, 32), ("gemma2", 46, 20), ("gemma2", 42, 32)],
)
def test_the_largest_gemmas_scale_by_width(
    config: Any, architecture: str, layers: int, divisor: int
) -> None:
    """ferrox #65 and llama.cpp #8444: 27B alone divides by the root of width / heads."""
    keys = {".block_count": layers, ".embedding_length": 80, ".attention.key_length": 32}
    embeddings = {"token_embd.weight": np.ones((70, 80), np.float32)}
    found = config(architecture, embeddings, **keys, **{".attention.value_length": 32})
    assert found["query_pre_attn_scalar"] == divisor


def test_soft_caps(config: Any) -> None:
    """vLLM #30427, transformers #42881."""
    keys = ("attn_logit_softcapping", "final_logit_softcapping")
    found = config("gemma2")
    assert [found[key] for key in keys] == [50.0, 30.0]
    found = config("gemma2", **{".attn_logit_softcapping": 20.0, ".final_logit_softcapping": 0.0})
    assert [found[key] for key in keys] == [20.0, None]
    assert config("gemma3")["final_logit_softcapping"] is None
    assert config("gemma3", **{".final_logit_softcapping": 7.0})["final_logit_softcapping"] == 7.0
    with pytest.raises(UnsupportedModelError, match=r"llama\.attn_logit_softcapping is 50"):
        config(**{".attn_logit_softcapping": 50.0})


def test_granites_scales(spec: Any) -> None:
    keys = {
        ".attention.scale": 0.015625,
        ".embedding_scale": 12.0,
        ".residual_scale": 0.22,
        ".logit_scale": 8.0,
    }
    found = spec("granite", **keys)
    assert (found.attention_multiplier, found.embedding_scale) == (0.015625, 12.0)
    assert (found.residual_scale, found.logits_scale) == (0.22, 0.125)
    found = spec("granite")
    assert (found.attention_multiplier, found.embedding_scale) == (0.25, 1.0)
    assert (found.residual_scale, found.logits_scale) == (1.0, 1.0)


def test_smollm3_has_no_rope_in_every_fourth_layer(spec: Any) -> None:
    assert spec("smollm3", **{".block_count": 9}).no_rope == (3, 7)


EXPERTS = {".expert_count": 4, ".expert_used_count": 2}


@pytest.mark.parametrize(
    ("architecture", "normalised"),
    [("llama", True), ("qwen2moe", False), ("qwen3moe", True), ("olmoe", False)],
)
def test_whether_the_weights_of_experts_sum_to_one(
    spec: Any, architecture: str, normalised: bool
) -> None:
    found = spec(architecture, **EXPERTS)
    assert (found.experts.count, found.experts.per_token) == (4, 2)
    assert found.experts.router.normalised is normalised
    if architecture != "llama":
        keys = {**EXPERTS, ".expert_weights_norm": not normalised}
        assert spec(architecture, **keys).experts.router.normalised is not normalised


def test_sizes_of_experts(spec: Any) -> None:
    sizes = {".expert_feed_forward_length": 24, ".expert_shared_feed_forward_length": 40}
    found = spec("qwen2moe", **EXPERTS, **sizes)
    assert (found.experts.ffn_size, found.experts.shared_size, found.ffn_size) == (24, 40, 96)
    found = spec("qwen2moe", **EXPERTS)
    assert (found.experts.ffn_size, found.experts.shared_size) == (48, 96)
    found = spec("qwen3moe", **EXPERTS, **sizes, **{".feed_forward_length": 0})
    assert (found.experts.ffn_size, found.experts.shared_size, found.ffn_size) == (24, 0, 24)
    assert spec(**EXPERTS).experts.ffn_size == 96


def test_the_size_of_a_head_is_that_of_its_keys(config: Any) -> None:
    """mistral.rs #1118: width / heads was taken."""
    tensors = {"token_embd.weight": np.ones((70, 160), np.float32)}
    keys = {".embedding_length": 160, ".attention.key_length": 32, ".attention.value_length": 32}
    assert config("qwen3", tensors, **keys)["head_dim"] == 32
    del keys[".attention.key_length"]
    with pytest.raises(UnsupportedModelError, match=r"attention\.value_length is 32.*here 40"):
        config("qwen3", tensors, **keys)


# ---- rotary embeddings


def test_a_base_that_is_not_named_is_said(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    """ollama #2379."""
    assert config(**{".rope.freq_base": None})["rope_parameters"]["rope_theta"] == 10_000.0
    assert "does not name llama.rope.freq_base, and 10000 is taken" in caplog.text
    caplog.clear()
    config("gemma", **{".rope.freq_base": None})  # converters write none for these
    config("gemma2", **{".rope.freq_base": None})
    assert not caplog.text


def test_gemma3_scales_full_layers_only(spec: Any) -> None:
    """ferrox #39."""
    scaling = {".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0, ".block_count": 6}
    window = {".attention.sliding_window": 9}
    for extra, base in (({}, 1e4), ({".rope.freq_base_swa": 2e4}, 2e4)):
        found = spec("gemma3", **scaling, **window, **extra, **{".rope.freq_base": 1e6})
        assert found.rope_of(0) == RopeSpec(theta=base, positions=128)
        assert found.rope_of(5) == RopeSpec("linear", theta=1e6, factor=8.0, positions=128)


def test_olmo3_scales_full_layers_only(spec: Any) -> None:
    keys = {
        ".block_count": 4,
        ".attention.sliding_window": 9,
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": 4.0,
        ".rope.scaling.original_context_length": 64,
        ".rope.freq_base": 5e5,
    }
    found = spec("olmo2", **keys)
    assert found.rope_of(0) == RopeSpec(theta=5e5, positions=128)
    assert found.rope_of(3).kind == "yarn"
    assert found.max_positions == 256


def test_linear_scaling(spec: Any) -> None:
    """No type means linear, and the factor had another name once."""
    assert spec().rope.kind == "default"
    for keys in (
        {".rope.scaling.factor": 4.0},
        {".rope.scale_linear": 4.0},
        {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0, ".rope.scale_linear": 2.0},
    ):
        found = spec(**keys).rope
        assert (found.kind, found.factor) == ("linear", 4.0)
    for keys in (
        {".rope.scaling.type": "none", ".rope.scaling.factor": 4.0},
        {".rope.scaling.factor": 0.0},
        {".rope.scaling.type": "linear", ".rope.scaling.factor": 1.0},
    ):
        assert spec(**keys).rope.kind == "default"


YARN = {
    ".rope.scaling.type": "yarn",
    ".rope.scaling.factor": 4.0,
    ".rope.scaling.original_context_length": 32,
}


def test_yarn(spec: Any) -> None:
    found = spec(**YARN).rope
    assert found == RopeSpec("yarn", theta=1e4, factor=4.0, positions=32)
    betas = {".rope.scaling.yarn_beta_fast": 16.0, ".rope.scaling.yarn_beta_slow": 2.0}
    found = spec(**YARN, **betas).rope
    assert (found.beta_fast, found.beta_slow, found.attention_factor) == (16.0, 2.0, None)
    found = spec("mistral3", **YARN, **{".rope.scaling.yarn_log_multiplier": 0.5}).rope
    assert (found.mscale, found.mscale_all_dim) == (1.0, 0.5)


def test_yarn_mixed_in_another_way_is_refused(config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"yarn_ext_factor is 0\.5, .* computes 1"):
        config(**YARN, **{".rope.scaling.yarn_ext_factor": 0.5})


def scale(spec: DecoderSpec) -> float:
    return inverse_frequencies(spec.rope, spec.head_dim, 64)[1]


def test_yarns_scale(spec: Any) -> None:
    usual = 0.1 * np.log(4) + 1
    assert scale(spec(**YARN)) == pytest.approx(usual)
    given = {".rope.scaling.yarn_attn_factor": 1.5}
    assert scale(spec(**YARN, **given)) == 1.5
    more = {".rope.scaling.attn_factor": 2.0}
    assert scale(spec(**YARN, **more)) == pytest.approx(2 * usual)
    assert scale(spec(**YARN, **given, **more)) == 3.0
    log = {".rope.scaling.yarn_log_multiplier": 0.5}
    assert scale(spec(**YARN, **log)) == pytest.approx(usual / (0.05 * np.log(4) + 1))
    assert scale(spec(**YARN, **log, **more)) == pytest.approx(2 * usual / (0.05 * np.log(4) + 1))
    # llama.cpp writes these where it was given neither.
    unset = {".rope.scaling.yarn_ext_factor": -1.0, ".rope.scaling.yarn_attn_factor": 1.0}
    assert scale(spec(**YARN, **unset)) == pytest.approx(usual)


LLAMA_31 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("theta", "size", "factor", "low", "high", "original"),
    [
        (5e5, 128, 8.0, 1.0, 4.0, 8192),  # Llama 3.1
        (5e5, 64, 32.0, 1.0, 4.0, 8192),  # Llama 3.2 1B
        (5e5, 128, 16.0, 1.0, 2.5, 8192),
        (1e4, 96, 2.5, 1.0, 8.0, 4096),
        (1e6, 32, 4.0, 1.0, 4.0, 32_768),  # one pair between
        (5e5, 16, 8.0, 1.0, 4.0, 64),
        (5e5, 8, 8.0, 1.0, 4.0, 8192),  # none
        (5e5, 128, 8.0, 2.0, 8.0, 16_384),  # the same as 1, 4, 8192
    ],
)
def test_llama3_scaling_is_found_in_its_divisors(
    spec: Any, theta: float, size: int, factor: float, low: float, high: float, original: int
) -> None:
    """vLLM #7268: the tensor is no unknown one. Frequencies are the folder's, bit for bit."""
    divisors = llama3_divisors(theta, size, factor, low, high, original)
    keys = {".attention.key_length": size, ".attention.value_length": size}
    tensors = {"rope_freqs.weight": divisors}
    found = spec("llama", tensors, **keys, **{".rope.freq_base": theta}).rope
    assert found.kind == "llama3"
    assert (found.factor, found.low_freq_factor) == (factor, 1.0)
    assert (found.high_freq_factor, found.positions) == (high / low, original / low)
    rope = RopeSpec("llama3", theta, factor, original, low_freq_factor=low, high_freq_factor=high)
    expected, _ = inverse_frequencies(rope, size, 64)
    np.testing.assert_array_equal(inverse_frequencies(found, size, 64)[0], expected)


@pytest.mark.parametrize("last", [12.3, 1.0, 0.5])
def test_other_divisors_are_taken_as_they_are(spec: Any, last: float) -> None:
    divisors = np.array([1, 1.5, 2.25, 2, 5, 9, 9.5, last], np.float32)
    found = spec("llama", {"rope_freqs.weight": divisors})
    assert found.rope.kind == "longrope"
    plain, _ = inverse_frequencies(RopeSpec(theta=1e4), 16, 64)
    for length in (16, 1 << 20):
        frequencies, factor = inverse_frequencies(found.rope, 16, length)
        np.testing.assert_array_equal(frequencies, plain / divisors)
        assert factor == 1.0
    assert (found.rope.positions, found.max_positions) == (128, 128)
    same = spec("llama", {"rope_freqs.weight": np.ones(8, np.float32)})
    assert same.rope == spec().rope


def test_a_llama_31_without_divisors_is_said(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    """llama.cpp #8650: such files were written before the scaling was known."""
    for name, context, expected in (
        ("Meta Llama 3.1 8B Instruct", 131_072, True),
        ("Llama-3.2-1B", 131_072, True),
        ("Meta Llama 3 8B", 131_072, False),
        ("Llama 3.1 8B", 8192, False),
    ):
        caplog.clear()
        config(**{"general.name": name, ".context_length": context})
        assert ("lacks rope_freqs.weight" in caplog.text) is expected
    caplog.clear()
    divisors = {"rope_freqs.weight": llama3_divisors(1e4, 16, 8.0, 1.0, 4.0, 64)}
    config("llama", divisors, **{"general.name": "Llama 3.1", ".context_length": 131_072})
    assert not caplog.text


def longrope(pairs: int) -> dict[str, NDArray[np.float32]]:
    return {
        "rope_factors_short.weight": np.linspace(1, 1.5, pairs).astype(np.float32),
        "rope_factors_long.weight": np.linspace(1, 60, pairs).astype(np.float32),
    }


PHI = {
    ".rope.scaling.original_context_length": 32,
    ".rope.scaling.attn_factor": 1.19,
    ".rope.dimension_count": 12,
}


def test_longrope_is_by_the_length_of_the_text(spec: Any) -> None:
    """llama.cpp #24823: the long factors for short texts. No key says that it is LongRoPE."""
    tensors = longrope(6)
    found = spec("phi3", tensors, **PHI)
    assert (found.rope.kind, found.rope.positions, found.rotary_dim) == ("longrope", 32, 12)
    plain, _ = inverse_frequencies(RopeSpec(theta=1e4, partial=0.75), 16, 64)
    for length, name in ((32, "short"), (33, "long")):
        frequencies, factor = inverse_frequencies(found.rope, found.head_dim, length)
        np.testing.assert_array_equal(frequencies, plain / tensors[f"rope_factors_{name}.weight"])
        assert np.float32(factor) == np.float32(1.19)


def test_longrope_has_a_factor_for_each_pair_that_is_rotated(config: Any) -> None:
    """ollama #9453: 64 of them were expected where 48 of 64 pairs are rotated."""
    with pytest.raises(WeightsError, match=r"rope_factors_short.* shape \(8,\).* shape \(6,\)"):
        config("phi3", longrope(8), **PHI)


def test_longrope_without_its_scale_has_that_of_the_paper(spec: Any) -> None:
    keys = {key: value for key, value in PHI.items() if "attn" not in key}
    expected = np.sqrt(1 + np.log(4) / np.log(32))
    assert scale(spec("phi3", longrope(6), **keys)) == pytest.approx(expected)


def test_longrope_in_parts_is_refused(config: Any) -> None:
    tensors = {**longrope(6), "rope_factors_long.weight": None}
    with pytest.raises(WeightsError, match=r"lacks rope_factors_long\.weight"):
        config("phi3", tensors, **PHI)
    with pytest.raises(WeightsError, match=r"lacks rope_factors_short\.weight"):
        config("llama", **{".rope.scaling.type": "longrope"})


@pytest.mark.parametrize(
    ("tensors", "keys"),
    [
        ({"rope_freqs.weight": np.full(8, 2, np.float32)}, YARN),
        ({"rope_freqs.weight": np.full(8, 2, np.float32)}, {".rope.scaling.factor": 2.0}),
        (longrope(8), YARN),
        (longrope(8), {".rope.scaling.factor": 2.0, ".rope.scaling.type": "longrope"}),
    ],
)
def test_two_scalings_at_once_are_refused(
    config: Any, tensors: dict[str, Any], keys: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModelError, match="scales its rotary embedding twice"):
        config("llama", tensors, **keys)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([1] * 7 + [np.nan], np.float32), "positive numbers"),
        (np.array([1] * 7 + [np.inf], np.float32), "positive numbers"),
        (np.array([1] * 7 + [0], np.float32), "positive numbers"),
        (np.array([1] * 7 + [-1], np.float32), "positive numbers"),
        (np.ones(7, np.float32), r"shape \(7,\); it must be F32 of shape \(8,\)"),
        (np.ones(8, np.float16), "is F16 of shape"),
    ],
)
def test_divisors_that_are_none(config: Any, values: NDArray[Any], problem: str) -> None:
    with pytest.raises(WeightsError, match=rf"rope_freqs\.weight.*{problem}"):
        config("llama", {"rope_freqs.weight": values})


def test_a_part_of_each_head_is_rotated(spec: Any) -> None:
    for architecture in ("phi3", "chatglm", "glm4"):
        assert spec(architecture, **{".rope.dimension_count": 6}).rotary_dim == 6
        assert spec(architecture).rotary_dim == 16
    with pytest.raises(UnsupportedModelError, match=r"dimension_count is 8.* all 16 dimensions"):
        spec(**{".rope.dimension_count": 8})


def test_every_share_of_a_head_is_exact() -> None:
    for head_dim in range(2, 513, 2):
        for size in range(2, head_dim + 1, 2):
            assert int(head_dim * share(size, head_dim)) == size
            assert 0 < share(size, head_dim) <= 1


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


# ---- layer norms, and FFNs without a gate

LAYER = {".attention.layer_norm_epsilon": 1e-5}


def test_norms_and_scales_of_old_kinds(config: Any) -> None:
    found = config("command-r", **LAYER, **{".logit_scale": 0.0625})
    assert (found["layer_norm_eps"], found["logit_scale"], found["use_qk_norm"]) == (
        1e-5, 0.0625, False,
    )  # fmt: skip
    assert config("command-r", **LAYER)["logit_scale"] == 1.0
    found = config("stablelm", **LAYER, **{".use_parallel_residual": True})
    assert not found["use_parallel_residual"]  # the norm is there
    assert config("gptneox", **LAYER, **{".use_parallel_residual": False})["rope_parameters"]
    assert config("olmo", **LAYER, **{".attention.clamp_kqv": 8.0})["clip_qkv"] == 8
    found = config("falcon", **LAYER)
    assert (found["num_kv_heads"], found["num_ln_in_parallel_attn"]) == (2, 1)
    assert "rope_parameters" not in config("gpt2", **LAYER)
    assert config("cohere2", **LAYER, **{".logit_scale": 0.25, ".attention.sliding_window": 9})[
        "layer_types"
    ] == layer_types("ww")


@pytest.mark.parametrize(
    ("architecture", "keys", "text"),
    [
        ("command-r", {}, r"command-r\.attention\.layer_norm_epsilon is missing"),
        ("cohere2", LAYER, r"cohere2\.logit_scale is missing"),
        ("bloom", LAYER, r"feed_forward_length is 96, and not four times the width"),
        ("olmo", {".attention.layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is not 1e-05"),
        ("gpt2", {**LAYER, ".logit_scale": 2.0}, r"gpt2\.logit_scale is 2"),
        ("apertus", {}, r"xielu\.alpha_p is missing"),
        ("apertus", {"xielu.alpha_p": [0.5] * 3}, r"xielu\.alpha_p .* 2 numbers"),
    ],
)
def test_old_kinds_that_are_not_whole(
    config: Any, architecture: str, keys: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        config(architecture, **keys)


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
        ("glm4", "rope.dimension_sections", [np.int32(8), np.int32(12), np.int32(12)]),
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
    with pytest.raises(ModelError, match=rf"a\.gguf: .*{architecture}\.{key} is |Granite|M-RoPE"):
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
        inverse_frequencies(found.rope, found.head_dim, 64)
        for name in source.names():
            assert source.tensor(name).data.ndim == 2
    assert not named or "any.gguf" in named
