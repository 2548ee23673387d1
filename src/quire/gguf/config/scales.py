"""Scales, soft caps, and layers without a rotary embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quire.gguf.architectures.declaration import Architecture
from quire.gguf.config.header import Header

_OF_MINICPM3 = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
"""Of embeddings, branches and logits. No file names them."""


def read_scales(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What the config says of scales, soft caps, and layers without a rotary embedding."""
    result: dict[str, Any] = dict(_OF_MINICPM3) if architecture.name == "minicpm3" else {}
    defaults = {
        "attn_logit_softcapping": architecture.attention_cap,
        "final_logit_softcapping": architecture.logits_cap,
    }
    for key, default in defaults.items():
        cap = header.number(key, default)
        if key in architecture.caps:
            result[key] = cap or None
        elif cap:
            raise header.unsupported(
                f"{header.key(key)} is {cap:g}, which is not computed for {architecture.name}"
            )
    divisor = config["head_dim"]
    if architecture.wide_layers:
        if header.layers == architecture.wide_layers:
            divisor = config["hidden_size"] // config["num_attention_heads"]
        result["query_pre_attn_scalar"] = divisor
    if architecture.no_rope_interval:
        interval = architecture.no_rope_interval
        result["no_rope_layers"] = [
            int((layer + 1) % interval != 0) for layer in range(header.layers)
        ]
    return result | _attention_scale(header, architecture, divisor**-0.5)


def _attention_scale(header: Header, architecture: Architecture, usual: float) -> dict[str, Any]:
    scale = header.number("attention.scale", 0.0) or usual
    if architecture.scales:
        usual_scales = _usual_scales(header, architecture)
        found = (header.number(f"{key}_scale", 0.0) for key in ("embedding", "residual", "logit"))
        embedding, residual, logit = (
            one or own for one, own in zip(found, usual_scales, strict=True)
        )
        return {
            "attention_multiplier": scale,
            "embedding_multiplier": embedding,
            "residual_multiplier": residual,
            "logits_scaling": logit,
        }
    if not math.isclose(scale, usual, rel_tol=1e-5):
        raise header.unsupported(
            f"{header.key('attention.scale')} is {scale:g}, and the native engine computes "
            f"{usual:g} for {architecture.name}"
        )
    return {}


def _usual_scales(header: Header, architecture: Architecture) -> tuple[float, float, float]:
    """Of embeddings, the residual stream and logits, where a file has none."""
    if architecture.name != "minicpm":
        return 1.0, 1.0, 1.0
    # The files of MiniCPM 1 were written before there were keys.
    return 12.0, 1.4 / header.layers**0.5, header.integer("embedding_length") / 256
