"""Falcon-H1: attention and Mamba-2 beside each other in every layer, with a multiplier almost everywhere."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.bamba import FFN_NAMES, NAMES, mamba2
from quire.engines.native.models.layers.attention import AttentionSpec
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder, read_shape
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError
from quire.weights.hub_config import HubConfig

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 8192}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `falcon_h1`."""
    config = config.with_defaults(_DEFAULTS)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    into = config.number("attention_in_multiplier", 1.0)
    out = config.number("attention_out_multiplier", 1.0)
    gate, down = _multipliers(config, "mlp_multipliers", 2)
    _check_bias(config, "attention_bias", bias, (into, out))
    _check_bias(config, "mlp_bias", mlp_bias, (down,))
    spec = plain_decoder(config, norm=NormSpec(eps=1e-5), names=NAMES)
    # Queries and keys are multiplied by what goes into attention, and keys once more.
    scale = into * into * config.number("key_multiplier", 1.0)
    attention = AttentionSpec(
        read_shape(config),
        spec.rope,
        scale * read_shape(config).head_dim ** -0.5,
        qkv_bias=bias,
        o_bias=bias,
        value_scale=into * out,
    )
    mixer = AttentionAndMamba2Spec(attention, _mamba2(config))
    return replace(
        spec.with_mixers([mixer] * spec.num_layers).with_ffn(
            bias=mlp_bias, scales=(gate, down), names=FFN_NAMES
        ),
        embeddings=EmbeddingsSpec(scale=config.number("embedding_multiplier", 1.0)),
        head=replace(spec.head, scale=config.number("lm_head_multiplier", 1.0)),
    )


def _mamba2(config: HubConfig) -> Mamba2Spec:
    inner = None if config.is_null("mamba_d_ssm") else config.integer("mamba_d_ssm", 1024)
    spec = mamba2(config, inner)
    into = config.number("ssm_in_multiplier", 1.0)
    out = config.number("ssm_out_multiplier", 1.0)
    out_bias = config.flag("projectors_bias")
    _check_bias(config, "mamba_proj_bias", spec.in_bias, (into,))
    _check_bias(config, "projectors_bias", out_bias, (out,))
    is_normed = config.flag("mamba_rms_norm")
    return replace(
        spec,
        out_bias=out_bias,
        norm_groups=spec.groups if is_normed else 0,
        gates_last=is_normed and config.flag("mamba_norm_before_gate", True),
        multipliers=tuple(into * one for one in _multipliers(config, "ssm_multipliers", 5)),
        out_scale=out,
        out_role="ssm_o",
    )


def _multipliers(config: HubConfig, key: str, count: int) -> tuple[float, ...]:
    values = config.get(key, [1.0] * count)
    if not isinstance(values, list) or len(values) != count:
        raise config.wrong(key, values, f"a list of {count} positive numbers")
    one_by_one = HubConfig(
        {str(n): value for n, value in enumerate(values)}, f"{config.source}: {key}"
    )
    return tuple(one_by_one.number(str(n), 1.0) for n in range(count))


def _check_bias(config: HubConfig, key: str, bias: bool, multipliers: tuple[float, ...]) -> None:
    """Refuse biases of a map beside multipliers, which are moved to where biases are not."""
    if bias and any(one != 1 for one in multipliers):
        raise UnsupportedModelError(
            f"{config.source}: {key} is true, and the native engine computes no Falcon-H1 with biases and "
            "multipliers. infer_backend: vllm may run this model"
        )
