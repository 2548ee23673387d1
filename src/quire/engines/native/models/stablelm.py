"""StableLM 3B, Zephyr, 2 1.6B and 2 12B: layer norms, and a part of each head rotated."""

from __future__ import annotations

from quire.engines.native.models.classic import no_windows
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}"
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `stablelm`."""
    norms, parallel = config.flag("qk_layernorm"), config.flag("use_parallel_residual")
    rope = read_rope(config, partial=0.25)
    return DecoderSpec(
        **common(config, rope=rope, norm_eps=1e-5, eps_key="layer_norm_eps"),
        windows=no_windows(config),
        norm_kind="layer",
        norm_bias=True,
        qkv_bias=config.flag("use_qkv_bias"),
        head_norms=norms,
        separate_head_norms=norms,
        parallel=parallel,
        shared_norm=parallel,
        names=NAMES,
    )
