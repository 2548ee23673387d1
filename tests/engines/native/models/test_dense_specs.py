"""Dense models of today: windows, ropes, scales."""

from __future__ import annotations

import pytest

from quire.engines.native.models.layers.rope import QueryScale
from quire.errors import ModelError
from tests.engines.native.models.specs import (
    attention,
    ffn,
    rope_of,
    rotary_dim,
    spec,
    without_rope,
)


def test_smollm3_layers() -> None:
    base = {"model_type": "smollm3", "num_hidden_layers": 4}
    found = spec(**base)
    assert (without_rope(found), found.windows, rope_of(found).theta) == ((3,), (0,) * 4, 2e6)
    found = spec(**base, no_rope_layers=[0, 1, 0, 1], use_sliding_window=True, sliding_window=8)
    assert (without_rope(found), found.windows) == ((0, 2), (8, 0, 8, 0))
    with pytest.raises(ModelError, match="no_rope_layers"):
        spec(**base, no_rope_layers=[0, 1])


def test_phi3_rope() -> None:
    longrope = {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6, "type": "su"}
    base = {"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_scaling": longrope}
    found = spec(**base, max_position_embeddings=8192)
    assert (rotary_dim(found), rope_of(found).kind, rope_of(found).positions) == (
        12,
        "longrope",
        4096,
    )
    assert (rope_of(found).factor, found.max_positions, found.windows) == (2.0, 8192, (0, 0))
    with pytest.raises(ModelError, match=r"short_factor is 'a list of 6'.*a list of 8"):
        spec(**{**base, "partial_rotary_factor": 1.0})
    with pytest.raises(ModelError, match="partial_rotary_factor"):
        spec(**{**base, "partial_rotary_factor": 0.7})


def test_mistral_windows() -> None:
    assert spec(model_type="mistral").windows == (4096, 4096)
    assert spec(model_type="mistral", sliding_window=None).windows == (0, 0)
    assert spec(model_type="mistral", sliding_window=7).windows == (7, 7)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen_windows(model_type: str) -> None:
    on = {"model_type": model_type, "use_sliding_window": True, "sliding_window": 9}
    assert spec(model_type=model_type, sliding_window=9).windows == (0, 0)
    assert spec(**on, max_window_layers=1).windows == (0, 9)
    assert spec(**on, max_window_layers=0).windows == (9, 9)
    assert spec(**on, layer_types=["sliding_attention", "full_attention"]).windows == (9, 0)
    with pytest.raises(ModelError, match="layer_types"):
        spec(**on, layer_types=["sliding_attention"])


def test_hunyuans_alpha_makes_the_base_larger() -> None:
    rope = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    found = spec(model_type="hunyuan_v1_dense", rope_scaling=rope, max_position_embeddings=512)
    assert (rope_of(found).kind, found.max_positions) == ("default", 512)
    assert rope_of(found).theta == pytest.approx(10_000 * 1000 ** (16 / 14))
    found = spec(model_type="hunyuan_v1_dense", rope_scaling={"type": "dynamic", "factor": 2.0})
    assert (rope_of(found).kind, found.max_positions) == ("dynamic", 256)


def test_apertus_scales_its_rotary_embedding_if_nothing_is_said() -> None:
    found = spec(model_type="apertus")
    assert (rope_of(found).kind, rope_of(found).theta, ffn(found).activation) == (
        "llama3",
        12e6,
        "xielu",
    )
    assert (attention(found).norms is None, ffn(found).gated) == (False, False)
    plain = spec(model_type="apertus", rope_parameters={"rope_type": "default"}, hidden_act="relu2")
    assert (plain.rope.kind, plain.rope.theta, ffn(plain).activation) == ("default", 12e6, "relu2")


def test_exaone4_rotates_in_layers_with_a_window_alone() -> None:
    base = {"model_type": "exaone4", "num_hidden_layers": 4}
    assert (spec(**base).windows, without_rope(spec(**base))) == ((4096, 4096, 4096, 0), (3,))
    found = spec(**base, sliding_window=None)
    assert (found.windows, without_rope(found)) == ((0,) * 4, ())
    found = spec(**base, sliding_window=9, sliding_window_pattern=2)
    assert (found.windows, without_rope(found)) == ((9, 0, 9, 0), (1, 3))
    types = ["full_attention", "sliding_attention"] * 2
    found = spec(**base, sliding_window=9, sliding_window_pattern="LG", layer_types=types)
    assert (found.windows, without_rope(found)) == ((0, 9, 0, 9), (0, 2))


def test_minicpm_scales() -> None:
    found = spec(model_type="minicpm", scale_emb=12, scale_depth=1.4, dim_model_base=16)
    assert (found.embeddings.scale, found.residual_scale) == (12, 1.4 / 2**0.5)
    assert (found.head.scale, found.head.tied) == (0.25, True)
    sparse = {"sparse_config": {"kernel_size": 32, "dense_len": 100}}
    assert spec(model_type="minicpm").max_positions == 128
    assert spec(model_type="minicpm", **sparse).max_positions == 100


def test_telechat3_has_its_own_name_for_yarn() -> None:
    rope = {"factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e6}
    found = spec(model_type="telechat3", rope_scaling={**rope, "rope_type": "telechat3-yarn"})
    assert found.rope == spec(rope_scaling={**rope, "rope_type": "yarn"}).rope


def test_ministral3_without_a_scale_of_queries() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    for beta in ({}, {"llama_4_scaling_beta": None}, {"llama_4_scaling_beta": 0}):
        assert spec(model_type="ministral3", rope_parameters={**rope, **beta}).query_scale is None
    scaled = {**rope, "llama_4_scaling_beta": 0.2}
    assert spec(model_type="ministral3", rope_parameters=scaled).query_scale == QueryScale(0.2, 32)
