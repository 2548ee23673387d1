"""Gemma 1 to 4."""

from __future__ import annotations

from quire.gguf.architectures.declaration import NORMS, POST_NORMS, Architecture

_GEMMA2_NORMS = {**NORMS, **POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}

GEMMA = (
    Architecture(
        "gemma", "Gemma", ("gemma",), "gemma", names_theta=False, norm_shift=1.0
    ),
    Architecture(
        "gemma2", "Gemma 2", ("gemma2",), "gemma2",
        windows="pattern", window=4096, pattern=2, wide_layers=46, names_theta=False,
        attention_cap=50.0, logits_cap=30.0,
        caps=("attn_logit_softcapping", "final_logit_softcapping"),
        norm_shift=1.0, norms=_GEMMA2_NORMS,
    ),
    Architecture(
        "gemma3", "Gemma 3, its text", ("gemma3", "gemma3_text"), "gemma3_text",
        windows="pattern", pattern=6, local_theta=10_000.0, scales_full_layers_only=True,
        wide_layers=62, caps=("final_logit_softcapping",),
        norm_shift=1.0, norms=_GEMMA2_NORMS, query_key_norms="head",
    ),
    Architecture(
        "gemma3n", "Gemma 3n, its text", ("gemma3n", "gemma3n_text"), "gemma3n_text",
        caps=("final_logit_softcapping",), norms=_GEMMA2_NORMS, query_key_norms="head",
        layer_inputs=True,
    ),
    Architecture(
        "gemma4", "Gemma 4, its text", ("gemma4", "gemma4_text"), "gemma4_text",
        caps=("final_logit_softcapping",), experts="some", normalised=True,
        norms=_GEMMA2_NORMS, query_key_norms="head", layer_inputs=True, joins_gate_up=True,
    ),
)  # fmt: skip
