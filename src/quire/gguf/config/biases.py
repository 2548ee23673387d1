"""Which linear maps have biases: no metadata say so, but the tensors are there or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quire.errors import UnsupportedModelError
from quire.gguf.config.header import Header

_QKV = ("attn_q", "attn_k", "attn_v")
_ATTENTION = {"attention_bias": (*_QKV, "attn_output")}
_INPUTS, _ALWAYS = {"attention_bias": _QKV}, {"": _QKV}
_CORRECTION = {"": ("exp_probs_b",)}  # of the choice of experts
_PLAIN_FFN = ("ffn_up", "ffn_down")
_UNGATED_MAPS = {**_ATTENTION, "mlp_bias": _PLAIN_FFN}
_EVERYWHERE = {"": (*_QKV, "attn_output", *_PLAIN_FFN)}
_ALL_MAPS = {**_ATTENTION, "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down")}
BIASES: dict[str, Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("llama", "granite", "smollm3", "bamba"), _ALL_MAPS),
    **dict.fromkeys(("qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"), _ATTENTION),
    "gpt_oss": _ATTENTION,
    **dict.fromkeys(("olmo2", "olmo3", "olmoe", "granitemoehybrid"), _ATTENTION),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), _ATTENTION),
    **dict.fromkeys(("glm", "glm4", "seed_oss"), _INPUTS),
    "ernie4_5": {"use_bias": _ALL_MAPS["attention_bias"] + _ALL_MAPS["mlp_bias"]},
    **dict.fromkeys(("qwen2", "qwen2_moe"), _ALWAYS),
    **dict.fromkeys(("granitemoe", "granitemoeshared", "hunyuan_v1_moe"), _ATTENTION),
    "deepseek_v3": {**_CORRECTION},
    "dots1": {**_ATTENTION, **_CORRECTION},
    "glm4_moe": {**_INPUTS, **_CORRECTION},
    **dict.fromkeys(("ernie4_5_moe", "kimi_linear", "lfm2_moe", "minimax_m2"), _CORRECTION),
    **dict.fromkeys(("cohere", "olmo", "apertus", "hunyuan_v1_dense"), _ATTENTION),
    **dict.fromkeys(("arcee", "nemotron"), _UNGATED_MAPS),
    "nemotron_h": {**_UNGATED_MAPS, **_CORRECTION},
    "llama4_text": _ATTENTION,
    **dict.fromkeys(("phi", "gpt2", "bloom"), _EVERYWHERE),
    "gpt_neox": {**_ATTENTION, "": _PLAIN_FFN},
    "stablelm": {"use_qkv_bias": _QKV},
    "starcoder2": {"use_bias": _EVERYWHERE[""]},
}
"""By model_type: the keys of a config that give linear maps biases, and these maps.

Those without a key always have biases. Other types have none.
"""

_BIAS = re.compile(
    r"blk\.(\d+)\.(attn_(?:q|k|v|qkv|output)|ffn_(?:gate|up|down)|exp_probs_b)\.bias"
)


def read_biases(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the config that say which maps have biases.

    Raises:
        UnsupportedModelError: a map has biases that the engine does not add for this model.
    """
    possible = BIASES.get(config["model_type"], {})
    stored = set(stored_biases(header))
    allowed = {role for roles in possible.values() for role in roles}
    if not stored <= allowed:
        raise UnsupportedModelError(
            f"{header.source}: it has biases of {', '.join(sorted(stored - allowed))}, which the "
            f"native engine does not add for {header.architecture}"
        )
    return {key: bool(stored & set(roles)) for key, roles in possible.items() if key}


def stored_biases(header: Header) -> Iterator[str]:
    """The linear maps that have a bias in any layer; queries, keys and values one by one."""
    for name in header.tensors:
        match = _BIAS.fullmatch(name)
        if match and int(match[1]) < header.layers:
            yield from _QKV if match[2] == "attn_qkv" else (match[2],)
