"""Models with layer norms or FFNs without a gate, most of them of before Llama."""

from __future__ import annotations

from quire.gguf.architectures.declaration import ONE_NORM, Architecture

FALCON_NORMS = {"attn_norm_2": "input_layernorm", "attn_norm": "post_attention_layernorm"}
"""Of those that have two."""

CLASSIC = (
    Architecture(
        "command-r", "Command R, Command R+, Aya", ("cohere",), "cohere",
        norms=ONE_NORM, eps="layer_norm_eps", query_key_norms="each", llama_names=True,
    ),
    Architecture(
        "cohere2", "Command R7B, Command A", ("cohere2",), "cohere2",
        windows="pattern", pattern=4, norms=ONE_NORM, eps="layer_norm_eps", llama_names=True,
    ),
    Architecture(
        "starcoder2", "StarCoder2", ("starcoder2",), "starcoder2",
        eps="norm_epsilon", norm_biases=True, gated=False, llama_names=True,
    ),
    Architecture(
        "stablelm", "StableLM", ("stablelm",), "stablelm",
        names_theta=False, partial_rotary=True, eps="layer_norm_eps", norm_biases=True,
        query_key_norms="each", llama_names=True,
    ),
    Architecture(
        "phi2", "Phi-1, Phi-1.5, Phi-2", ("phi",), "phi",
        names_theta=False, partial_rotary=True, norms=ONE_NORM, eps="layer_norm_eps",
        norm_biases=True, gated=False, head_bias=True, llama_names=True,
    ),
    Architecture(
        "gptneox", "GPT-NeoX, Pythia", ("gpt_neox",), "gpt_neox",
        names_theta=False, partial_rotary=True, eps="layer_norm_eps", norm_biases=True,
        gated=False, joins_qkv=True, llama_names=True,
    ),
    Architecture(
        "gpt2", "GPT-2", ("gpt2",), "gpt2",
        rotary=False, positions=True, eps="layer_norm_epsilon", norm_biases=True, gated=False,
        joins_qkv=True, llama_names=True,
    ),
    Architecture(
        "bloom", "BLOOM, BLOOMZ", ("bloom",), "bloom",
        rotary=False, embedding_norm=True, eps="layer_norm_epsilon", norm_biases=True, gated=False,
        joins_qkv=True, llama_names=True,
    ),
    Architecture(
        "falcon", "Falcon 7B, 40B, 180B, 11B", ("falcon",), "falcon",
        names_theta=False, eps="layer_norm_epsilon", norm_biases=True, gated=False,
        joins_qkv=True, llama_names=True,
    ),
    Architecture(
        "nemotron", "Nemotron-4, Minitron", ("nemotron",), "nemotron",
        partial_rotary=True, eps="norm_eps", norm_biases=True, norm_shift=1.0, gated=False,
        llama_names=True,
    ),
    Architecture(
        "olmo", "OLMo 1", ("olmo",), "olmo",
        interleaved=True, norms={}, eps="layer_norm_eps", llama_names=True,
    ),
)  # fmt: skip
