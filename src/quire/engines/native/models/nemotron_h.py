"""Nemotron-H and Nemotron 3: each layer is Mamba-2, attention without a rotary embedding, or an FFN.

FFNs are of squared ReLU, without gates, dense or sparse.
"""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.bamba import step_limits
from quire.engines.native.models.glm4_moe import grouped_router
from quire.engines.native.models.layers.attention import AttentionNames
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.mamba2 import Mamba2Spec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = WeightNames(
    embeddings="model.embeddings.weight",
    final_norm="model.norm_f.weight",
    attention_norm="norm",
    ffn_norm="norm",
    prefix_map=(("backbone.", "model."),),
)
_ATTENTION_NAMES = AttentionNames(
    q="mixer.q_proj",
    k="mixer.k_proj",
    v="mixer.v_proj",
    o="mixer.o_proj",
)
_FFN_NAMES = FfnNames(up="mixer.up_proj", down="mixer.down_proj")
_EXPERT_NAMES = ExpertNames(
    router="mixer.gate",
    correction="mixer.gate.e_score_correction_bias",
    experts="mixer.experts.{}.",
    shared="mixer.shared_experts.",
    latent_in="mixer.fc1_latent_proj",
    latent_out="mixer.fc2_latent_proj",
    fused_router="mixer.gate",
    fused_gate_up="mixer.experts.up_proj",
    fused_down="mixer.experts.down_proj",
)
_KINDS = {
    "M": "mamba", "*": "attention", "-": "mlp", "E": "moe",
    "linear_attention": "mamba", "full_attention": "attention",
}  # fmt: skip
_DEFAULTS = {
    "intermediate_size": 21_504,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "moe_latent_size": None,
    "norm_topk_prob": True,
}
_MOST_LAYERS = 10_000
# Later names and those of the first configs.
_OLD_NAMES = {
    "n_groups": "mamba_n_groups",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
    "time_step_limit": "mamba_dt_limit",
}
_EPS, _NORM_EPS = "layer_norm_epsilon", 1e-5


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `nemotron_h`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("mlp_hidden_act", ("relu2",), "relu2")
    config.require("mamba_hidden_act", ("silu",), "silu")
    kinds, bias = _layer_kinds(config), config.flag("attention_bias")
    config = config.with_changes({"num_hidden_layers": len(kinds)})
    spec = plain_decoder(
        config, rotates=False, activation="relu2", gated=False,
        norm=NormSpec(eps=_NORM_EPS), eps_key=_EPS, names=_NAMES,
    )  # fmt: skip
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, names=_ATTENTION_NAMES)
    spec = spec.with_ffn(bias=config.flag("mlp_bias"), names=_FFN_NAMES)
    sparse = [kind == "moe" for kind in kinds]
    spec = spec.with_experts(_experts(config) if any(sparse) else None, sparse)
    mamba = _mamba2(config) if "mamba" in kinds else None

    def of_kind(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] in ("mlp", "moe"):
            return replace(layer, mixer=None)
        mixer = mamba if kinds[index] == "mamba" else layer.mixer
        return replace(layer, mixer=mixer, ffn=None)

    return spec.with_layers(of_kind)


def _layer_kinds(config: HubConfig) -> list[str]:
    """What each layer is: by a list of names, or by a text with a letter for each."""
    key = next((one for one in _PATTERNS if one in config), _PATTERNS[0])
    given = config.get(key, ["mamba", "moe", "attention", "mlp"])
    listed = isinstance(given, list | str) and 0 < len(given) <= _MOST_LAYERS
    kinds = (
        [_KINDS.get(one, one) if isinstance(one, str) else "" for one in given] if listed else []
    )
    if not kinds or not all(kind in _KINDS.values() for kind in kinds):
        raise config.wrong(key, given, "a list of mamba, attention, mlp and moe, or M, *, - and E")
    return kinds


_PATTERNS = ("layers_block_type", "layer_types", "hybrid_override_pattern")


def _experts(config: HubConfig) -> ExpertsSpec:
    config.require("mlp_bias", (False,), False)
    config.require("n_shared_experts", (1,), 1)
    count = config.integer("n_routed_experts")
    chosen = per_token(config, count)
    return ExpertsSpec(
        count=count,
        per_token=chosen,
        ffn_size=config.integer("moe_intermediate_size"),
        router=grouped_router(config, count, chosen),
        shared_size=config.integer("moe_shared_expert_intermediate_size"),
        latent_size=0 if config.is_null("moe_latent_size") else config.integer("moe_latent_size"),
        names=_EXPERT_NAMES,
    )


def _mamba2(config: HubConfig) -> Mamba2Spec:
    old = {new: config.get(before) for new, before in _OLD_NAMES.items() if before in config}
    config = config.with_changes(old)
    heads, groups = config.integer("mamba_num_heads", 128), config.integer("n_groups", 8)
    if heads % groups:
        raise config.wrong("n_groups", groups, f"a divisor of the {heads} heads")
    bias = config.flag("use_bias")
    return Mamba2Spec(
        heads=heads,
        head_dim=config.integer("mamba_head_dim", 64),
        groups=groups,
        state_size=config.integer("ssm_state_size", 128),
        width=config.integer("conv_kernel", 4),
        norm_eps=config.number(_EPS, _NORM_EPS),
        conv_bias=config.flag("use_conv_bias", True),
        in_bias=bias,
        out_bias=bias,
        norm_groups=groups,
        step_limits=step_limits(config),
        prefix="mixer.",
    )
