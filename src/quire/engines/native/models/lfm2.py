"""LFM2 and LFM2.5: short convolutions in most layers, attention with norms of heads in the others."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import AttentionNames, HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = WeightNames(
    final_norm="model.embedding_norm.weight", attention_norm="operator_norm", ffn_norm="ffn_norm"
)
_ATTENTION_NAMES = AttentionNames(
    o="self_attn.out_proj", q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm"
)
_FFN_NAMES = FfnNames(gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2")
_EXPERT_NAMES = ExpertNames(
    router="feed_forward.gate",
    correction="feed_forward.expert_bias",
    experts="feed_forward.experts.{}.",
    gate="w1",
    up="w3",
    down="w2",
    fused_router="feed_forward.gate",
    fused_gate_up="feed_forward.experts.gate_up_proj",
    fused_down="feed_forward.experts.down_proj",
)
_DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
}
_CONV, _ATTENTION = "conv", "full_attention"


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `lfm2`."""
    config = config.with_defaults(_DEFAULTS)
    return _lfm2(config.with_changes({"intermediate_size": _ffn_size(config)}))


def with_experts(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `lfm2_moe`: dense first layers, then experts."""
    config = config.with_defaults({**_DEFAULTS, "intermediate_size": 7168})
    layers, count = config.integer("num_hidden_layers"), config.integer("num_experts", 32)
    dense = config.integer("num_dense_layers", 2, minimum=0)
    experts = ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 4),
        ffn_size=config.integer("moe_intermediate_size", 1792),
        router=RouterSpec(
            scores="sigmoid",
            normalised=config.flag("norm_topk_prob", True),
            least_sum=1e-6,
            scale=config.number("routed_scaling_factor", 1.0),
            is_corrected=config.flag("use_expert_bias", True),
        ),
        names=_EXPERT_NAMES,
    )
    return _lfm2(config).with_experts(experts, [layer >= dense for layer in range(layers)])


def _lfm2(config: HubConfig) -> DecoderSpec:
    layers = config.integer("num_hidden_layers")
    eps = config.number("norm_eps", 1e-5)
    # The first checkpoints have this key of another name.
    tied = config.flag("tie_embedding", config.flag("tie_word_embeddings", True))
    config = config.with_changes({"rms_norm_eps": eps, "tie_word_embeddings": tied})
    conv = ShortConvSpec(
        channels=config.integer("hidden_size"),
        width=config.integer("conv_L_cache", 3),
        bias=config.flag("conv_bias"),
    )
    rope = read_rope(config, 1_000_000.0)
    spec = plain_decoder(config, rope=rope, activation="silu", names=_NAMES)
    norms = HeadNormsSpec(spec.final_norm)
    spec = spec.with_attention(norms=norms, names=_ATTENTION_NAMES).with_ffn(names=_FFN_NAMES)
    types = _layer_types(config, layers)
    return spec.with_mixers([conv if kind == _CONV else None for kind in types])


def _layer_types(config: HubConfig, layers: int) -> list[str]:
    """For each layer "conv" or "full_attention"; older configs list the indices of the latter."""
    types = config.get("layer_types")
    if types is None:
        attention = config.get("full_attn_idxs", list(range(layers)))
        if not isinstance(attention, list) or not all(type(one) is int for one in attention):
            raise config.wrong("full_attn_idxs", attention, "a list of layer indices")
        return [_ATTENTION if layer in attention else _CONV for layer in range(layers)]
    known = (_CONV, _ATTENTION)
    if not isinstance(types, list) or len(types) != layers or not all(t in known for t in types):
        raise config.wrong("layer_types", types, f"{layers} of {', '.join(known)}")
    return types


def _ffn_size(config: HubConfig) -> int:
    """The width of the FFN: `intermediate_size`, or two thirds of it, rounded up to a multiple."""
    key = "block_ff_dim" if "block_ff_dim" in config else "intermediate_size"
    size = config.integer(key, 12_288)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return size
    size = 2 * size // 3
    if config.is_null("block_ffn_dim_multiplier"):
        return size
    size = int(config.number("block_ffn_dim_multiplier", 1.0) * size)
    multiple = config.integer("block_multiple_of", 256)
    return max(1, -(-size // multiple)) * multiple
