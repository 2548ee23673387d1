"""Llama's form with small changes: norms elsewhere, scales, windows."""

from __future__ import annotations

from quire.gguf.architectures.declaration import POST_NORMS, TWO_NORMS, Architecture

LLAMA = (
    Architecture(
        "llama", "Llama 2 to 3.3, Mistral, Mixtral, Yi, SmolLM2 and whatever else has Llama's form",
        ("llama", "mistral", "mixtral", "internlm3"), "llama",
        windows="all", experts="some", normalised=True, interleaved=True,
    ),
    Architecture(
        "mistral3", "Mistral Small 3, Ministral 3, their text", ("mistral3", "ministral3"), "mistral",
        windows="all", grows_queries=True, interleaved=True,
    ),
    Architecture("internlm2", "InternLM2, InternLM2.5", ("internlm2",), "llama", interleaved=True),
    Architecture(
        "smollm3", "SmolLM3", ("smollm3",), "smollm3", no_rope_interval=4, interleaved=True
    ),
    Architecture(
        "arcee", "Arcee's AFM", ("arcee",), "arcee",
        interleaved=True, gated=False, llama_names=True,
    ),
    Architecture(
        "granite", "Granite 3", ("granite",), "granite", scales=True, interleaved=True
    ),
    Architecture(
        "minicpm", "MiniCPM 1, 2 and 4", ("minicpm",), "granite", scales=True, interleaved=True
    ),
    Architecture(
        "minicpm3", "MiniCPM 3", ("minicpm3",), "minicpm3",
        mixer="latent", names_theta=False,
    ),
    Architecture(
        "phi3", "Phi-3, Phi-3.5, Phi-4", ("phi3",), "phi3",
        windows="all", partial_rotary=True, fused_qkv=True, fused_gate_up=True,
    ),
    Architecture(
        "olmo2", "OLMo 2, OLMo 3", ("olmo2", "olmo3"), "olmo2",
        windows="pattern", pattern=4, scales_full_layers_only=True,
        norms=POST_NORMS, query_key_norms="width",
    ),
    Architecture(
        "exaone4", "EXAONE 4, EXAONE 4.5, their text", ("exaone4", "exaone4_5"), "exaone4",
        windows="pattern", pattern=4, norms=POST_NORMS, query_key_norms="head",
    ),
    Architecture("seed_oss", "Seed-OSS", ("seed_oss",), "seed_oss", norms=TWO_NORMS),
    Architecture("ernie4_5", "ERNIE 4.5", ("ernie4_5",), "ernie4_5"),
    Architecture(
        "hunyuan-dense", "Hunyuan 0.5B to 7B", ("hunyuan_v1_dense",), "hunyuan_v1_dense",
        query_key_norms="head", llama_names=True,
    ),
    Architecture(
        "apertus", "Apertus", ("apertus",), "apertus",
        query_key_norms="head", gated=False, llama_names=True,
    ),
)  # fmt: skip
