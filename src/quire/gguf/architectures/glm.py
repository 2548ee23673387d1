"""GLM-4 and later, dense and with experts, and ChatGLM."""

from __future__ import annotations

from typing import Any

from quire.gguf.architectures.declaration import NORMS, TWO_NORMS, Architecture

_GLM4_NORMS = {
    **NORMS,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}

_GLM4: Any = {"partial_rotary": True, "fused_gate_up": True, "norms": _GLM4_NORMS}

GLM = (
    Architecture(
        "chatglm", "GLM-4, ChatGLM3", ("glm",), "glm", partial_rotary=True, fused_gate_up=True
    ),
    Architecture("glm4", "GLM-4-0414", ("glm4",), "glm4", **_GLM4),
    Architecture(
        "glm4moe", "GLM-4.5, GLM-4.6, Solar Open", ("glm4_moe", "solar_open"), "glm4_moe",
        partial_rotary=True, experts="all", norms=TWO_NORMS, query_key_norms="head",
    ),
)  # fmt: skip

GLM4V = Architecture(
    "glm4", "GLM-4.1V, its text", ("glm4v", "glm4v_text"), "glm4", rotates_halves=True, **_GLM4
)
"""Its files have the architecture of GLM-4-0414, and M-RoPE's sections. In a text its three positions are
equal, and so it is one."""
