"""GLM-4 and later, dense and with experts, and ChatGLM."""

from __future__ import annotations

from quire.gguf.architectures.declaration import NORMS, TWO_NORMS, Architecture

_GLM4_NORMS = {
    **NORMS,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}

GLM = (
    Architecture(
        "chatglm", "GLM-4, ChatGLM3", ("glm",), "glm", partial_rotary=True, fused_gate_up=True
    ),
    Architecture(
        "glm4", "GLM-4-0414, GLM-4.1V, its text", ("glm4", "glm4v", "glm4v_text"), "glm4",
        partial_rotary=True, fused_gate_up=True, norms=_GLM4_NORMS,
    ),
    Architecture(
        "glm4moe", "GLM-4.5, GLM-4.6, Solar Open", ("glm4_moe", "solar_open"), "glm4_moe",
        partial_rotary=True, experts="all", norms=TWO_NORMS, query_key_norms="head",
    ),
)  # fmt: skip
