"""What the metadata and the tensors say of models with layer norms or FFNs without a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quire.gguf.architectures.declaration import Architecture
from quire.gguf.config.header import Header

XIELU = ("alpha_p", "alpha_n", "beta", "eps")
"""Apertus' activation has these numbers in each layer, in a file as metadata."""

_OLMO_EPS = 1e-5


def eps_key(architecture: Architecture) -> str:
    """The key of the small number in norms, which says of what kind they are."""
    kind = "rms_" if architecture.eps == "rms_norm_eps" else ""
    return f"attention.layer_norm_{kind}epsilon"


def read_classic(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The keys of the config that such a model has more than others."""
    name, hidden, ffn = architecture.name, config["hidden_size"], config["intermediate_size"]

    def has(tensor: str) -> bool:
        return f"blk.0.{tensor}.weight" in header.tensors

    if name == "command-r":
        # Without the key, logits are not scaled.
        return {
            "logit_scale": header.number("logit_scale", 0.0) or 1.0,
            "use_qk_norm": has("attn_q_norm"),
        }
    if name == "cohere2":
        return {"logit_scale": header.number("logit_scale")}
    if name == "stablelm":  # llama.cpp looks for the norm, too, and not at the key
        return {"use_parallel_residual": not has("ffn_norm"), "qk_layernorm": has("attn_q_norm")}
    if name == "gptneox":
        return {"use_parallel_residual": header.flag("use_parallel_residual", True)}
    if name == "gpt2":
        return {"n_inner": ffn}
    if name == "falcon":
        norms = 2 if has("attn_norm_2") else 1
        return {
            "ffn_hidden_size": ffn, "num_kv_heads": config["num_key_value_heads"],
            "new_decoder_architecture": True, "num_ln_in_parallel_attn": norms,
        }  # fmt: skip
    if name == "apertus":
        return {f"xielu_{one}": header.numbers(f"xielu.{one}") for one in XIELU}
    if name == "olmo":
        if not math.isclose(config[architecture.eps], _OLMO_EPS, rel_tol=1e-5):
            raise header.unsupported(f"{header.key(eps_key(architecture))} is not {_OLMO_EPS:g}")
        return {"clip_qkv": header.number("attention.clamp_kqv", 0.0) or None}
    if name == "bloom" and ffn != 4 * hidden:
        raise header.unsupported(
            f"{header.key('feed_forward_length')} is {ffn}, and not four times the width, as in all BLOOMs"
        )
    return {}
