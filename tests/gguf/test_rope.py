"""Rotary embeddings of GGUF files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.rope import inverse_frequencies
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf.config.rope import share
from tests.gguf.model_metadata import llama3_divisors


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
        local = RopeSpec(theta=base, positions=128, is_local=True)
        assert found.layers[0].mixer.rope == local
        assert found.layers[5].mixer.rope == RopeSpec(
            "linear", theta=1e6, factor=8.0, positions=128
        )


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
    local = RopeSpec(theta=5e5, positions=128, is_local=True)
    assert found.layers[0].mixer.rope == local
    assert found.layers[3].mixer.rope.kind == "yarn"
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


def rotary_dim(spec: DecoderSpec) -> int:
    rope, head_dim = spec.ropes[0]
    return rope.size(head_dim)


def scale(spec: DecoderSpec) -> float:
    return inverse_frequencies(*spec.ropes[0], 64)[1]


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
    assert (found.rope.kind, found.rope.positions, rotary_dim(found)) == ("longrope", 32, 12)
    plain, _ = inverse_frequencies(RopeSpec(theta=1e4, partial=0.75), 16, 64)
    rope, head_dim = found.ropes[0]
    for length, name in ((32, "short"), (33, "long")):
        frequencies, factor = inverse_frequencies(rope, head_dim, length)
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
        assert rotary_dim(spec(architecture, **{".rope.dimension_count": 6})) == 6
        assert rotary_dim(spec(architecture)) == 16
    with pytest.raises(UnsupportedModelError, match=r"dimension_count is 8.* all 16 dimensions"):
        spec(**{".rope.dimension_count": 8})


def test_every_share_of_a_head_is_exact() -> None:
    for head_dim in range(2, 513, 2):
        for size in range(2, head_dim + 1, 2):
            assert int(head_dim * share(size, head_dim)) == size
            assert 0 < share(size, head_dim) <= 1
