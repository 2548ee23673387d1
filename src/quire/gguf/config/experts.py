"""Sparse FFNs in GGUF files: what the metadata says of them, and how a folder calls it.

Files have one set of keys and of tensors for all families; configs and folders have a set for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quire.gguf.config.header import Header

SOFTMAX, SIGMOID, _SOFTMAX_OF_CHOSEN = 1, 2, 3  # values of `expert_gating_func`
_MOST_EXPERTS = 1024
EXPERT_SCALES = "ffn_down_exps.scale"
"""A factor of each expert, by its name in a file."""


@dataclass(frozen=True, slots=True)
class ExpertFamily:
    """How the config and the folder of a model_type call what a sparse FFN has. Empty: it has none."""

    # -- keys of the config
    count: str = "num_experts"
    used: str = "num_experts_per_tok"
    size: str = "moe_intermediate_size"
    shared_size: str = ""
    """The width of the shared expert."""
    shared_count: str = ""
    """Or of how many experts it has the width."""
    normalised: str = ""
    """Whether the weights sum to 1; without a key they do."""
    grouped: bool = False
    """It has DeepSeek's router, with groups and a scale."""
    first_sparse: str = ""
    """The first sparse layer."""
    step: str = ""
    """Of so many layers, one is sparse."""
    sparse_kind: str = ""
    """What the config calls a sparse layer, if it says of each layer what it is."""
    dense_size: str = "intermediate_size"
    """The width of an FFN that is not sparse."""
    latent_size: str = ""
    """The width of what the chosen experts read."""
    gating: int = SOFTMAX

    # -- names of tensors in a layer
    router: str = "mlp.gate"
    biases: bool = False
    """The linear maps of the router and of the experts have biases."""
    correction: str = ""
    """The bias of the choice: the whole name."""
    correction_is_row: bool = False
    """It is a matrix of one row."""
    experts: str = "mlp.experts.{}."
    maps: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Two, if there is no gate."""
    fused: tuple[str, str] | None = None
    """Gate and up, and down, of all experts, where folders have them in no other way: whole names."""
    shared: str = ""
    shared_maps: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Two, if gate and up are fused or there is no gate."""
    shared_score: str = ""
    beside_dense: bool = False
    """Sparse layers have a dense FFN, too."""
    latent_maps: tuple[str, str] = ("", "")
    """The maps around experts that read something smaller than the input."""
    vectors: Mapping[str, str] = field(default_factory=dict[str, str])
    """Norms and factors that a sparse layer has besides: whole names in a folder, and in a file."""

    def is_sparse(self, config: Mapping[str, Any], layer: int) -> bool:
        """Whether the FFN of a layer is sparse."""
        if self.sparse_kind:
            return config["layer_types"][layer] == self.sparse_kind
        first = config[self.first_sparse] if self.first_sparse else 0
        return layer >= first and (layer + 1) % (config[self.step] if self.step else 1) == 0

    def shared_width(self, config: Mapping[str, Any]) -> int:
        """How wide the shared expert is; 0 if there is none."""
        if self.shared_size:
            return config[self.shared_size]
        return config[self.size] * config[self.shared_count] if self.shared_count else 0


_CORRECTION = "mlp.gate.e_score_correction_bias"
_DEEPSEEK = ExpertFamily(
    count="n_routed_experts",
    shared_count="n_shared_experts",
    normalised="norm_topk_prob",
    grouped=True,
    first_sparse="first_k_dense_replace",
    gating=SIGMOID,
    correction=_CORRECTION,
    shared="mlp.shared_experts.",
)
_GRANITE = ExpertFamily(
    count="num_local_experts",
    size="intermediate_size",
    router="block_sparse_moe.router.layer",
    experts="block_sparse_moe.experts.{}.",
    fused=("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
)
_SHARED_GRANITE = replace(
    _GRANITE,
    shared_size="shared_intermediate_size",
    shared="shared_mlp.",
    shared_maps=("input_linear", "output_linear"),
)

_QWEN2_MOE = ExpertFamily(
    shared_size="shared_expert_intermediate_size",
    normalised="norm_topk_prob",
    shared="mlp.shared_expert.",
    shared_score="mlp.shared_expert_gate",
)

FAMILIES: Mapping[str, ExpertFamily] = {
    "deepseek_v2": replace(_DEEPSEEK, gating=SOFTMAX, correction=""),
    "deepseek_v3": _DEEPSEEK,
    "dots1": _DEEPSEEK,
    "ernie4_5_moe": ExpertFamily(
        count="moe_num_experts",
        used="moe_k",
        shared_count="moe_num_shared_experts",
        first_sparse="moe_layer_start_index",
        step="moe_layer_interval",
        correction="mlp.moe_statics.e_score_correction_bias",
        correction_is_row=True,
        shared="mlp.shared_experts.",
    ),
    "gemma4_text": ExpertFamily(
        used="top_k_experts",
        router="router.proj",
        experts="experts.{}.",
        beside_dense=True,
        vectors={
            "router.scale": "ffn_gate_inp.scale",
            "router.per_expert_scale": EXPERT_SCALES,
            "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
            "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
            "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
        },
    ),
    "glm4_moe": _DEEPSEEK,
    "gpt_oss": ExpertFamily(
        count="num_local_experts",
        size="intermediate_size",
        gating=_SOFTMAX_OF_CHOSEN,
        router="mlp.router",
        biases=True,
    ),
    "granitemoe": _GRANITE,
    "granitemoeshared": _SHARED_GRANITE,
    "granitemoehybrid": _SHARED_GRANITE,
    "hunyuan_v1_moe": ExpertFamily(
        used="moe_topk",
        size="intermediate_size",
        shared_size="intermediate_size",
        router="mlp.gate.wg",
        shared="mlp.shared_mlp.",
    ),
    "kimi_linear": replace(
        _DEEPSEEK,
        count="num_experts",
        used="num_experts_per_token",
        shared_count="num_shared_experts",
        normalised="moe_renormalize",
        router="block_sparse_moe.gate",
        correction="block_sparse_moe.gate.e_score_correction_bias",
        experts="block_sparse_moe.experts.{}.",
        maps=("w1", "w3", "w2"),
        shared="block_sparse_moe.shared_experts.",
    ),
    "lfm2_moe": ExpertFamily(
        normalised="norm_topk_prob",
        first_sparse="num_dense_layers",
        gating=SIGMOID,
        router="feed_forward.gate",
        correction="feed_forward.expert_bias",
        experts="feed_forward.experts.{}.",
        maps=("w1", "w3", "w2"),
    ),
    "llama4_text": ExpertFamily(
        count="num_local_experts",
        size="intermediate_size",
        dense_size="intermediate_size_mlp",
        shared_size="intermediate_size",
        step="interleave_moe_layer_step",
        gating=SIGMOID,
        router="feed_forward.router",
        experts="feed_forward.experts.{}.",
        shared="feed_forward.shared_expert.",
    ),
    "minimax_m2": ExpertFamily(
        count="num_local_experts",
        size="intermediate_size",
        gating=SIGMOID,
        router="block_sparse_moe.gate",
        correction="block_sparse_moe.e_score_correction_bias",
        experts="block_sparse_moe.experts.{}.",
        maps=("w1", "w3", "w2"),
    ),
    "mixtral": ExpertFamily(
        count="num_local_experts",
        size="intermediate_size",
        router="block_sparse_moe.gate",
        experts="block_sparse_moe.experts.{}.",
        maps=("w1", "w3", "w2"),
    ),
    "nemotron_h": replace(
        _DEEPSEEK,
        shared_count="",
        shared_size="moe_shared_expert_intermediate_size",
        first_sparse="",
        sparse_kind="moe",
        latent_size="moe_latent_size",
        router="mixer.gate",
        correction="mixer.gate.e_score_correction_bias",
        experts="mixer.experts.{}.",
        maps=("up_proj", "down_proj"),
        shared="mixer.shared_experts.",
        shared_maps=("up_proj", "down_proj"),
        latent_maps=("mixer.fc1_latent_proj", "mixer.fc2_latent_proj"),
    ),
    "olmoe": ExpertFamily(size="intermediate_size", normalised="norm_topk_prob"),
    "qwen2_moe": _QWEN2_MOE,
    "qwen3_5_moe_text": replace(_QWEN2_MOE, normalised=""),
    "qwen3_moe": ExpertFamily(normalised="norm_topk_prob"),
}
"""By model_type."""


def expert_count(header: Header) -> int:
    """How many experts a model has; 0 for none."""
    return header.integer("expert_count", 0, minimum=0, maximum=_MOST_EXPERTS)


def read_experts(header: Header, model_type: str, *, normalised: bool) -> dict[str, Any]:
    """What a config of the model_type says of the sparse FFN.

    Args:
        normalised: whether the weights sum to 1 where the file says nothing.
    """
    family, count = FAMILIES[model_type], expert_count(header)
    used = header.integer("expert_used_count", 0, minimum=0)
    if not 0 < used <= count:
        raise header.wrong(
            header.key("expert_used_count"), used, f"1 to {count} of {count} experts"
        )
    config: dict[str, Any] = {"model_type": model_type, family.count: count, family.used: used}
    config |= _sizes(header, family, used)
    config |= _layers(header, family)
    config |= _router(header, family, normalised)
    return config | _shared(header, family, config)


def _sizes(header: Header, family: ExpertFamily, used: int) -> dict[str, int]:
    """The width of an expert, and of an FFN that is not sparse."""
    if family.size == family.dense_size:
        return {family.size: header.integer("feed_forward_length")}
    if family.sparse_kind:
        latent = header.integer(family.latent_size, 0, minimum=0)
        size = header.integer("expert_feed_forward_length")
        return {family.size: size} | ({family.latent_size: latent} if latent else {})
    dense = header.integer("feed_forward_length", 0, minimum=0)
    size = header.integer("expert_feed_forward_length", dense // used)
    return {family.dense_size: dense or size, family.size: size}


def _layers(header: Header, family: ExpertFamily) -> dict[str, int]:
    """Which layers are sparse."""
    config: dict[str, int] = {}
    for key, name, usual in (
        (family.first_sparse, "leading_dense_block_count", 0),
        (family.step, "interleave_moe_layer_step", 1),
    ):
        value = header.integer(name, usual, minimum=usual, maximum=header.layers)
        if key:
            config[key] = value
        elif value != usual:
            raise _not_computed(header, name, value)
    return config


def _router(header: Header, family: ExpertFamily, normalised: bool) -> dict[str, Any]:
    gating = header.integer("expert_gating_func", 0, minimum=0)
    if gating not in (0, family.gating):
        raise _not_computed(header, "expert_gating_func", gating)
    normalised = header.flag("expert_weights_norm", normalised)
    if not family.normalised and not normalised:
        raise header.unsupported(f"{header.key('expert_weights_norm')} is false")
    config: dict[str, Any] = {family.normalised: normalised} if family.normalised else {}
    scale = header.number("expert_weights_scale", 0.0) or 1.0
    groups = header.integer("expert_group_count", 1, minimum=0) or 1
    chosen = header.integer("expert_group_used_count", 1, minimum=0) or 1
    if family.grouped:
        if groups > 1 and not family.correction:
            config["topk_method"] = "group_limited_greedy"
        return {**config, "routed_scaling_factor": scale, "n_group": groups, "topk_group": chosen}
    for name, value in (("expert_weights_scale", scale), ("expert_group_count", groups)):
        if value != 1:
            raise _not_computed(header, name, value)
    return config


def _shared(header: Header, family: ExpertFamily, config: Mapping[str, Any]) -> dict[str, int]:
    """The width of the shared expert, which not all converters write as it is: its tensor has it."""
    key = "expert_shared_feed_forward_length"
    if family.shared_size and family.shared_size not in config:
        usual = 0 if key in header else header.integer("feed_forward_length", 0, minimum=0)
        return {family.shared_size: header.integer(key, usual)}
    if not family.shared_count:
        return {}
    first = next((layer for layer in range(header.layers) if family.is_sparse(config, layer)), None)
    shape = header.shape(f"blk.{first}.ffn_gate_shexp.weight") or (0,)
    count, rest = divmod(shape[0], config[family.size])
    if rest:
        raise header.wrong(
            f"the shape of blk.{first}.ffn_gate_shexp.weight", shape,
            f"of whole experts of width {config[family.size]}",
        )  # fmt: skip
    return {family.shared_count: count}


def _not_computed(header: Header, name: str, value: float) -> Exception:
    return header.unsupported(
        f"{header.key(name)} is {value:g}, which the native engine does not compute for "
        f"{header.architecture}"
    )
