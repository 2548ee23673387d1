"""The architectures of GGUF files that the native engine runs, and a file's `config.json`.

A file names an architecture of llama.cpp and has its sizes in the metadata. Much else that decides what
a model computes is in no file: llama.cpp has it in code, and `ARCHITECTURES` has it here. What comes
out is the config of a Hugging Face folder of the same model, which the engine reads as any other.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf import arch_mixers, arch_rope
from quire.gguf.arch_experts import expert_count, read_experts
from quire.gguf.arch_header import Header
from quire.gguf.reader import GgufFile
from quire.weights.hub_config import LLAMA_NAMES, short

logger = logging.getLogger("quire")

_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ONE_NORM = {"attn_norm": "input_layernorm"}
FALCON_NORMS = {"attn_norm_2": "input_layernorm", "attn_norm": "post_attention_layernorm"}
_GEMMA2_NORMS = {**_NORMS, **_POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}
_SEED_NORMS = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"
}  # fmt: skip
_GLM4_NORMS = {
    **_NORMS,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_GLM4_MOE_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
}
_LFM2_NAMES = (
    ("model.norm.", "model.embedding_norm."),
    ("self_attn.o_proj", "self_attn.out_proj"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp's code knows of an architecture, and how its files hold the weights."""

    name: str
    """As `general.architecture` has it."""
    models: str
    """The models that have it, for people."""
    model_types: tuple[str, ...]
    """The types of Hugging Face folders from which its files are made."""
    model_type: str
    """What its config.json says, where nothing in the file decides otherwise."""

    # -- constants of the computation
    windows: Literal["none", "all", "pattern"] = "none"
    """Which layers have the window that the file names."""
    window: int = 0
    """The window of files that name none."""
    pattern: int = 0
    """The last of so many layers has no window."""
    local_theta: float | None = None
    """The rotary base of layers with a window; None for that of the others."""
    scales_full_layers_only: bool = False
    """Layers with a window have a rotary embedding of their own, which is not scaled."""
    truncates_yarn: bool = True
    """YaRN's borders between fast and slow dimensions are whole numbers."""
    partial_rotary: bool = False
    """The engine rotates a part of each head, if the file says so."""
    names_theta: bool = True
    """llama.cpp's converter writes the rotary base."""
    wide_layers: int = 0
    """A model of so many layers divides its scores by the root of width / heads, not of the head."""
    attention_cap: float = 0.0
    logits_cap: float = 0.0
    caps: tuple[str, ...] = ()
    """The soft caps that it has, by the config's keys."""
    scales: bool = False
    """Embeddings, the residual stream and logits are scaled by what the file says, as in Granite."""
    grows_queries: bool = False
    """Queries may be multiplied by a factor of their position."""
    no_rope_interval: int = 0
    """Every so many layers, one has no rotary embedding."""
    experts: Literal["none", "some", "all"] = "none"
    """Whether its models have experts."""
    normalised: bool = False
    """The weights of the chosen experts sum to 1."""
    sinks: bool = False
    """Each query head has an attention sink."""
    gated_attention: bool = False
    """The rows of queries have those of attention's gates beside them, head by head."""
    mixer: Literal["", "delta_net", "latent", "short_conv", "mamba2", "beside"] = ""
    """What some layers, or with `latent` all, have in place of attention; `beside`: all have Mamba-2
    beside it."""

    # -- the weights
    interleaved: bool = False
    """The rows of queries and keys are in llama.cpp's order: see `weights`."""
    norm_shift: float = 0.0
    """What the weights of norms are larger by than in a folder."""
    norms: Mapping[str, str] = field(default_factory=lambda: _NORMS)
    """The norms of a layer: their names in a file, and in a folder."""
    query_key_norms: Literal["", "head", "each", "width"] = ""
    """Norms of queries and keys: over a head, with the same weights for all or with those of each; or over
    all heads. Those of each head are in some of its models alone."""
    norm_names: Mapping[str, str] = field(default_factory=lambda: {"q": "q_norm", "k": "k_norm"})
    """What a folder calls them."""
    fused_qkv: bool = False
    """A folder has queries, keys and values in one tensor."""
    joins_qkv: bool = False
    """A file has queries, keys and values in one tensor, whatever a folder has."""
    fused_gate_up: bool = False
    """A folder has gate and up in one tensor, and so has the file, under the name of up."""
    tiled_values: bool = False
    """The value heads of delta nets are in llama.cpp's order: see `weights`."""
    is_written: bool = True
    """quire makes such files of folders, too."""
    llama_names: bool = False
    """Its tensors are known by Llama's names, whatever a folder calls them."""
    eps: str = "rms_norm_eps"
    """What the config calls the small number in norms. By any other name, these are layer norms."""
    norm_biases: bool = False
    gated: bool = True
    """The FFN has a gate."""
    rotary: bool = True
    """Its layers have rotary embeddings."""
    positions: bool = False
    """It has embeddings of positions."""
    embedding_norm: bool = False
    head_bias: bool = False
    final_norm: str = "output_norm"
    """The last norm's name in a file."""
    renames: tuple[tuple[str, str], ...] = ()
    """Parts of names in a folder that are not Llama's: (Llama's, its own)."""


_QWEN_HYBRID: Any = {
    "partial_rotary": True,
    "gated_attention": True,
    "mixer": "delta_net",
    "norm_shift": 1.0,
    "norms": {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
    "query_key_norms": "head",
    "is_written": False,
}

_ALL = (
    Architecture(
        "llama", "Llama 2 to 3.3, Mistral, Mixtral, Yi, SmolLM2 and whatever else has Llama's form",
        ("llama", "mistral", "mixtral", "internlm3"), "llama",
        windows="all", experts="some", normalised=True, interleaved=True,
    ),
    Architecture(
        "mistral3", "Mistral Small 3, Ministral 3, their text", ("mistral3", "ministral3"), "mistral",
        windows="all", grows_queries=True, interleaved=True,
    ),
    Architecture("qwen2", "Qwen2, Qwen2.5", ("qwen2",), "qwen2"),
    Architecture(
        "qwen2vl", "Qwen2-VL, Qwen2.5-VL, their text", ("qwen2_vl", "qwen2_5_vl"), "qwen2"
    ),
    Architecture(
        "qwen2moe", "Qwen1.5-MoE, Qwen2-MoE", ("qwen2_moe",), "qwen2_moe", experts="all"
    ),
    Architecture("qwen3", "Qwen3", ("qwen3",), "qwen3", query_key_norms="head"),
    Architecture(
        "qwen3vl", "Qwen3-VL, its text", ("qwen3_vl", "qwen3_vl_text"), "qwen3",
        query_key_norms="head",
    ),
    Architecture(
        "qwen3moe", "Qwen3-MoE", ("qwen3_moe",), "qwen3_moe",
        experts="all", normalised=True, query_key_norms="head",
    ),
    Architecture(
        "qwen3next", "Qwen3-Next", ("qwen3_next",), "qwen3_5_moe_text",
        experts="all", normalised=True, **_QWEN_HYBRID,
    ),
    Architecture(
        "qwen35", "Qwen3.5, Qwen3.6, their text", ("qwen3_5", "qwen3_5_text"), "qwen3_5_text",
        tiled_values=True, **_QWEN_HYBRID,
    ),
    Architecture(
        "qwen35moe", "Qwen3.5 and Qwen3.6 with experts, their text",
        ("qwen3_5_moe", "qwen3_5_moe_text"), "qwen3_5_moe_text",
        experts="all", normalised=True, tiled_values=True, **_QWEN_HYBRID,
    ),
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
    # llama.cpp rounds YaRN's borders, which the model was not trained with: see `truncate` in its config.
    Architecture(
        "gpt-oss", "gpt-oss", ("gpt_oss",), "gpt_oss",
        windows="pattern", pattern=2, truncates_yarn=False, experts="all", normalised=True,
        sinks=True, norms=_SEED_NORMS,
    ),
    Architecture(
        "granite", "Granite 3", ("granite",), "granite", scales=True, interleaved=True
    ),
    Architecture(
        "minicpm", "MiniCPM 1, 2 and 4", ("minicpm",), "granite", scales=True, interleaved=True
    ),
    Architecture(
        "granitemoe", "Granite 3 with experts", ("granitemoe", "granitemoeshared"), "granitemoe",
        experts="all", normalised=True, scales=True, interleaved=True,
    ),
    Architecture(
        "phi3", "Phi-3, Phi-3.5, Phi-4", ("phi3",), "phi3",
        windows="all", partial_rotary=True, fused_qkv=True, fused_gate_up=True,
    ),
    Architecture(
        "olmo2", "OLMo 2, OLMo 3", ("olmo2", "olmo3"), "olmo2",
        windows="pattern", pattern=4, scales_full_layers_only=True,
        norms=_POST_NORMS, query_key_norms="width",
    ),
    Architecture(
        "olmoe", "OLMoE", ("olmoe",), "olmoe", experts="all", query_key_norms="width"
    ),
    Architecture(
        "smollm3", "SmolLM3", ("smollm3",), "smollm3", no_rope_interval=4, interleaved=True
    ),
    Architecture(
        "chatglm", "GLM-4, ChatGLM3", ("glm",), "glm", partial_rotary=True, fused_gate_up=True
    ),
    Architecture(
        "glm4", "GLM-4-0414", ("glm4",), "glm4",
        partial_rotary=True, fused_gate_up=True, norms=_GLM4_NORMS,
    ),
    Architecture("ernie4_5", "ERNIE 4.5", ("ernie4_5",), "ernie4_5"),
    Architecture(
        "exaone4", "EXAONE 4, EXAONE 4.5, their text", ("exaone4", "exaone4_5"), "exaone4",
        windows="pattern", pattern=4, norms=_POST_NORMS, query_key_norms="head",
    ),
    Architecture("seed_oss", "Seed-OSS", ("seed_oss",), "seed_oss", norms=_SEED_NORMS),
    Architecture(
        "glm4moe", "GLM-4.5, GLM-4.6, Solar Open", ("glm4_moe", "solar_open"), "glm4_moe",
        partial_rotary=True, experts="all", norms=_GLM4_MOE_NORMS, query_key_norms="head",
    ),
    Architecture(
        "bailingmoe2", "Ling 2.0", ("bailing_moe", "bailing_moe_v2"), "glm4_moe",
        partial_rotary=True, experts="all", query_key_norms="head", joins_qkv=True,
    ),
    Architecture(
        "minimax-m2", "MiniMax-M2", ("minimax_m2",), "minimax_m2",
        partial_rotary=True, experts="all", normalised=True, query_key_norms="width",
    ),
    Architecture(
        "ernie4_5-moe", "ERNIE 4.5 with experts", ("ernie4_5_moe",), "ernie4_5_moe",
        experts="all", normalised=True,
    ),
    Architecture(
        "deepseek2", "DeepSeek V2, V3, R1, Kimi K2, GLM-4.7-Flash, Youtu-LLM",
        ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "youtu"), "deepseek_v3",
        experts="some", mixer="latent", is_written=False,
    ),
    Architecture(
        "dots1", "dots.llm1", ("dots1",), "dots1", experts="all", query_key_norms="head"
    ),
    Architecture(
        "hunyuan-moe", "Hunyuan-A13B", ("hunyuan_v1_moe",), "hunyuan_v1_moe",
        experts="all", normalised=True, query_key_norms="head",
        norm_names={"q": "query_layernorm", "k": "key_layernorm"},
    ),
    Architecture(
        "lfm2", "LFM2, LFM2.5", ("lfm2",), "lfm2", mixer="short_conv",
        norms={"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}, query_key_norms="head",
        norm_names={"q": "q_layernorm", "k": "k_layernorm"},
        final_norm="token_embd_norm", renames=_LFM2_NAMES,
    ),
    Architecture(
        "lfm2moe", "LFM2 with experts", ("lfm2_moe",), "lfm2_moe", mixer="short_conv",
        experts="all", normalised=True,
        norms={"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}, query_key_norms="head",
        norm_names={"q": "q_layernorm", "k": "k_layernorm"},
        final_norm="token_embd_norm", renames=_LFM2_NAMES,
    ),
    Architecture(
        "falcon-h1", "Falcon-H1", ("falcon_h1",), "falcon_h1", mixer="beside",
        norms={"attn_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm"},
        renames=(("model.norm.", "model.final_layernorm."), ("mlp.", "feed_forward.")),
    ),
    Architecture(
        "granitehybrid", "Granite 4 H", ("granitemoehybrid",), "granitemoehybrid",
        mixer="mamba2", scales=True, interleaved=True, experts="some", normalised=True,
        renames=(("mlp.down_proj", "shared_mlp.output_linear"),),
    ),
    Architecture("internlm2", "InternLM2, InternLM2.5", ("internlm2",), "llama", interleaved=True),
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
        "hunyuan-dense", "Hunyuan 0.5B to 7B", ("hunyuan_v1_dense",), "hunyuan_v1_dense",
        query_key_norms="head", llama_names=True,
    ),
    Architecture(
        "apertus", "Apertus", ("apertus",), "apertus",
        query_key_norms="head", gated=False, llama_names=True,
    ),
    Architecture(
        "arcee", "Arcee's AFM", ("arcee",), "arcee",
        interleaved=True, gated=False, llama_names=True,
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

ARCHITECTURES: dict[str, Architecture] = {one.name: one for one in _ALL}
"""By their names in GGUF files."""

_QKV = ("attn_q", "attn_k", "attn_v")
_ATTENTION = {"attention_bias": (*_QKV, "attn_output")}
_INPUTS, _ALWAYS = {"attention_bias": _QKV}, {"": _QKV}
_CORRECTION = {"": ("exp_probs_b",)}  # of the choice of experts
_PLAIN_FFN = ("ffn_up", "ffn_down")
_UNGATED_MAPS = {**_ATTENTION, "mlp_bias": _PLAIN_FFN}
_EVERYWHERE = {"": (*_QKV, "attn_output", *_PLAIN_FFN)}
_ALL_MAPS = {**_ATTENTION, "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down")}
BIASES: dict[str, Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("llama", "granite", "smollm3"), _ALL_MAPS),
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
    **dict.fromkeys(("ernie4_5_moe", "lfm2_moe", "minimax_m2"), _CORRECTION),
    **dict.fromkeys(("cohere", "olmo", "apertus", "hunyuan_v1_dense"), _ATTENTION),
    **dict.fromkeys(("arcee", "nemotron"), _UNGATED_MAPS),
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

XIELU = ("alpha_p", "alpha_n", "beta", "eps")
"""Apertus' activation has these numbers in each layer, in a file as metadata."""

_OLMO_EPS = 1e-5
_MOST_HEADS = 10_000
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}

_KINDS = {
    "adapter": "a LoRA adapter, and quire takes adapters as safetensors",
    "mmproj": "the part of a model that sees or hears, and not the model: give the other file",
    "imatrix": "a list of which weights matter, made for quantising, and no model",
}

_NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.causal": (1,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_scale": (0,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0,),
    "use_parallel_residual": (0,),
}
"""Keys of which the engine computes these values alone."""
_SCALES = ("embedding_scale", "logit_scale", "residual_scale")
_COMPUTED: dict[str, tuple[str, ...]] = {
    "command-r": ("logit_scale",),
    "cohere2": ("logit_scale",),
    "bloom": ("attention.max_alibi_bias",),
    "gptneox": ("use_parallel_residual",),
    "stablelm": ("use_parallel_residual",),
    "olmo": ("attention.clamp_kqv",),
}
"""Those of them that it computes with any value, by architecture."""


def architecture_of(header: Header) -> Architecture:
    """The architecture of a model's files.

    Raises:
        UnsupportedModelError: the engine does not run it, or the files hold no model.
    """
    kind, name = header.metadata.get("general.type", "model"), header.architecture
    if name == "clip":  # files of before 2025 name no kind
        kind = "mmproj"
    if not isinstance(kind, str) or kind != "model":  # a list compares element by element
        what = _KINDS.get(kind) if isinstance(kind, str) else None
        raise header.unsupported(f"it is {what or f'of the kind {short(kind)}, and no model'}")
    known = ", ".join(ARCHITECTURES)
    if not name:
        raise header.unsupported(f"general.architecture is missing. The native engine runs {known}")
    if name not in ARCHITECTURES:
        raise header.unsupported(
            f"the native engine does not run the architecture {short(name)}. It runs {known}"
        )
    if not header.tensors:
        raise header.unsupported("it holds a vocabulary and no weights")
    return ARCHITECTURES[name]


def config_of(files: Sequence[GgufFile]) -> dict[str, Any]:
    """The `config.json` of a model's files, of which the first has the metadata.

    Raises:
        UnsupportedModelError: the engine does not run the architecture, or something that this model
            has, or the files hold no model.
        ModelError: the metadata lacks something or contradicts itself.
        WeightsError: a tensor that the config is read from is missing, or of another shape.
    """
    header = Header(files)
    architecture = architecture_of(header)
    _refuse_what_is_not_computed(header, architecture)
    hidden, heads = header.integer("embedding_length"), _heads(header, "attention.head_count")
    if architecture.mixer in ("short_conv", "mamba2", "beside"):
        kv_heads, attends = arch_mixers.attention_layers(header, heads)
    else:
        kv_heads, attends = _heads(header, "attention.head_count_kv", heads), []
    if heads % kv_heads:
        raise header.wrong(
            header.key("attention.head_count_kv"), kv_heads, f"a divisor of the {heads} heads"
        )
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "torch_dtype": _dtype(header),
        "vocab_size": _vocabulary(header, hidden),
        "hidden_size": hidden,
        "num_hidden_layers": header.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": _head_dim(header, architecture, hidden // heads),
        "max_position_embeddings": header.integer("context_length"),
        architecture.eps: header.number(eps_key(architecture), maximum=1.0),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    config |= _windows(header, architecture, config)
    if architecture.rotary:
        config |= _rope(header, architecture, config)
        config |= _query_scale(header, architecture, config)
    config |= _ffn(header, architecture)
    config |= _query_key_norms(header, config)
    config |= _scales(header, architecture, config)
    if architecture.llama_names:
        config |= {LLAMA_NAMES: True, **_of_old_kind(header, architecture, config)}
    config |= _mixer(header, architecture, config, attends)
    return config | _biases(header, config)


def _mixer(
    header: Header, architecture: Architecture, config: Mapping[str, Any], attends: list[bool]
) -> dict[str, Any]:
    """What layers have in place of attention; `attends` says which layers have that."""
    match architecture.mixer:
        case "latent":
            return arch_mixers.latent_keys(header, config)
        case "delta_net":
            return arch_mixers.delta_net_keys(header, is_tiled=architecture.tiled_values)
        case "short_conv":
            return arch_mixers.short_conv_keys(header, attends, config["rms_norm_eps"])
        case "mamba2":
            rotates = header.flag("rope.scaling.finetuned", True)
            keys = arch_mixers.mamba2_keys(header, attends)
            return keys | {"position_embedding_type": "rope" if rotates else None}
        case "beside":
            return arch_mixers.beside_keys(header)
        case "":
            return {}


def eps_key(architecture: Architecture) -> str:
    """The key of the small number in norms, which says of what kind they are."""
    kind = "rms_" if architecture.eps == "rms_norm_eps" else ""
    return f"attention.layer_norm_{kind}epsilon"


def _heads(header: Header, key: str, default: int | None = None) -> int:
    return header.integer(key, default, maximum=_MOST_HEADS)


def _head_dim(header: Header, architecture: Architecture, default: int) -> int:
    """The size of a head, which is that of keys and of values, in all layers.

    With latent attention it is that of the part that is rotated, as in transformers.
    """
    if architecture.mixer == "latent":
        return header.integer("rope.dimension_count", minimum=2)
    head_dim = header.integer("attention.key_length", default, minimum=2)
    for key in ("value_length", "key_length_swa", "value_length_swa"):
        other = header.integer(f"attention.{key}", head_dim, minimum=0)
        if other != head_dim:
            raise header.unsupported(
                f"{header.key(f'attention.{key}')} is {other}, and the native engine runs models "
                f"whose heads have one size, here {head_dim}"
            )
    return head_dim


def _vocabulary(header: Header, hidden: int) -> int:
    """How many rows the embeddings have: some models have more than tokens."""
    shape = header.shape("token_embd.weight")
    if shape is None:
        raise WeightsError(f"{header.source}: the file lacks token_embd.weight")
    if len(shape) != 2 or shape[1] != hidden:
        raise WeightsError(
            f"{header.source}: token_embd.weight has shape {shape}, and "
            f"{header.key('embedding_length')} is {hidden}"
        )
    return shape[0]


def _dtype(header: Header) -> str:
    """The type of the embeddings, if they are not quantised."""
    found = header.tensors.get("token_embd.weight")
    return "float32" if found is None else _DTYPES.get(found[1].type.name, "float32")


def _refuse_what_is_not_computed(header: Header, architecture: Architecture) -> None:
    for key, values in _NEUTRAL.items():
        if key not in header or key in _COMPUTED.get(architecture.name, ()):
            continue
        if architecture.scales and key in _SCALES:
            continue
        if key == "attention.temperature_scale" and architecture.grows_queries:
            continue
        value = header.value(key)
        if value not in values:
            raise header.unsupported(
                f"{header.key(key)} is {short(value)}, which the native engine does not compute for "
                f"{architecture.name}"
            )
    is_rotated = header.flag("rope.scaling.finetuned", True)
    if architecture.scales and not architecture.mixer and not is_rotated:
        raise header.unsupported("it is a Granite without rotary embeddings, which is not run")
    sections = header.integers("rope.dimension_sections") or []
    if architecture.name == "glm4" and any(sections):
        raise header.unsupported("it is a GLM-4 that sees (M-RoPE), which is not run")


# ---- windows and rotary embeddings


def _windows(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Attention windows: the keys, and the model_type that a window decides."""
    window = header.integer("attention.sliding_window", architecture.window, minimum=0)
    if architecture.windows == "none":
        if architecture.name == "dots1":  # whose config means one by saying nothing
            return {"sliding_window": None}
        if 0 < window < config["max_position_embeddings"]:
            logger.warning(
                "%s: %s is %d. It is not used, as llama.cpp does not either for %s.",
                header.source, header.key("attention.sliding_window"), window, architecture.name,
            )  # fmt: skip
        return {}
    if architecture.windows == "pattern":
        types = _layer_types(header, architecture.pattern) if window else _full(header)
        if architecture.name == "olmo2":
            if not window:
                return {}
            return {"model_type": "olmo3", "sliding_window": window, "layer_types": types}
        return {"sliding_window": window or None, "layer_types": types}
    return _window_of_all_layers(header, architecture, window)


def _window_of_all_layers(
    header: Header, architecture: Architecture, window: int
) -> dict[str, Any]:
    """The window of Mistral, Mixtral and Phi-3, which llama.cpp does not use and transformers does."""
    pattern = "attention.sliding_window_pattern"
    has_experts = header.integer("expert_count", 0, minimum=0) > 0
    if window and pattern in header:
        if architecture.name == "phi3" or has_experts:
            raise header.unsupported(f"{header.key(pattern)} is not known for this model")
        types = _layer_types(header, 0)
        return {"model_type": "ministral", "sliding_window": window, "layer_types": types}
    if architecture.name == "phi3" or has_experts:
        return {"sliding_window": window or None}
    if not window and architecture.name == "llama":
        return {}
    return {"model_type": "mistral", "sliding_window": window or None}


def _full(header: Header) -> list[str]:
    return ["full_attention"] * header.layers


def _layer_types(header: Header, period: int) -> list[str]:
    """By a list with a value for each layer, or a number: the last of so many layers is full."""
    key, layers = "attention.sliding_window_pattern", header.layers
    listed = header.integers(key)
    if listed is not None and len(listed) not in (layers, header.layers_with_extra):
        raise header.wrong(header.key(key), f"a list of {len(listed)}", f"a list of {layers}")
    if listed is None:
        period = header.integer(key, period, minimum=0)
        listed = [int(not period or (layer + 1) % period) for layer in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in listed[:layers]]


def _rope(header: Header, architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    head_dim, context = config["head_dim"], config["max_position_embeddings"]
    rope = arch_rope.read_rope(header, head_dim, context, names_theta=architecture.names_theta)
    if rope["rope_type"] == "yarn" and not architecture.truncates_yarn:
        rope["truncate"] = False
    size = arch_rope.rotated(header, head_dim)
    if architecture.partial_rotary:
        rope["partial_rotary_factor"] = arch_rope.share(size, head_dim)
    elif size != head_dim:
        raise header.unsupported(
            f"{header.key('rope.dimension_count')} is {size}, and the native engine rotates all "
            f"{head_dim} dimensions of a head for {architecture.name}"
        )
    local = _local_rope(header, architecture, config, rope["rope_theta"])
    by_layer = {"full_attention": rope, "sliding_attention": local}
    result: dict[str, Any] = {"rope_parameters": rope if local is None else by_layer}
    if rope["rope_type"] == "longrope":  # Phi-3's config has it at the top, too
        key = "original_max_position_embeddings"
        result[key] = rope[key]
    return result


def _local_rope(
    header: Header, architecture: Architecture, config: Mapping[str, Any], theta: float
) -> dict[str, Any] | None:
    """The rotary embedding of layers with a window; None if it is that of all layers."""
    local = header.number("rope.freq_base_swa", architecture.local_theta or theta)
    size = arch_rope.rotated(header, config["head_dim"])
    if header.integer("rope.dimension_count_swa", size, minimum=0) != size:
        raise header.unsupported(
            f"{header.key('rope.dimension_count_swa')} is not {size}, as in the other layers"
        )
    if architecture.scales_full_layers_only and "layer_types" in config:
        return {"rope_type": "default", "rope_theta": local}
    if local != theta and "layer_types" in config:
        raise header.unsupported(
            f"{header.key('rope.freq_base_swa')} is {local:g}, and the native engine has one rotary "
            f"base for {architecture.name}, here {theta:g}"
        )
    return None


def _query_scale(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The factor of queries that grows with their position, which makes a Mistral a Ministral 3."""
    beta = header.number("attention.temperature_scale", 0.0) if architecture.grows_queries else 0.0
    if not beta:
        return {}
    rope = config["rope_parameters"]
    if rope["rope_type"] != "yarn" or config["model_type"] != "mistral":
        raise header.unsupported(
            f"{header.key('attention.temperature_scale')} is {beta:g}, which is computed for YaRN and "
            "one window for all layers"
        )
    return {
        "model_type": "ministral3",
        "rope_parameters": {**rope, "llama_4_scaling_beta": beta},
    }


# ---- the rest of a layer


def _ffn(header: Header, architecture: Architecture) -> dict[str, Any]:
    count = expert_count(header)
    if (architecture.experts == "none" and count) or (architecture.experts == "all" and not count):
        raise header.unsupported(
            f"{header.key('expert_count')} is {count}, which is not run for {architecture.name}"
        )
    if architecture.name == "granitehybrid" and not count:  # its converter names both all the same
        dense = header.integer("feed_forward_length")
        shared = header.integer("expert_shared_feed_forward_length", dense)
        return {
            "intermediate_size": shared,
            "shared_intermediate_size": shared,
            "num_local_experts": 0,
        }
    if not count:
        used = header.integer("expert_used_count", 0, minimum=0)
        if used:
            raise header.wrong(header.key("expert_used_count"), used, "0, as the number of experts")
        return {"intermediate_size": header.integer("feed_forward_length")}
    model_type = _type_with_experts(header, architecture)
    return read_experts(header, model_type, normalised=architecture.normalised)


def _type_with_experts(header: Header, architecture: Architecture) -> str:
    """The model_type of a model that has experts."""
    if architecture.name == "llama":
        return "mixtral"
    if architecture.mixer == "latent":
        return arch_mixers.latent_type(header)
    has_shared = header.integer("expert_shared_feed_forward_length", 0, minimum=0) > 0
    if architecture.name == "granitemoe" and has_shared:
        return "granitemoeshared"
    return architecture.model_type


def _query_key_norms(header: Header, config: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a GLM-4.5 has norms of queries and keys is in no metadata: Air has none."""
    if config["model_type"] != "glm4_moe":
        return {}
    return {"use_qk_norm": "blk.0.attn_q_norm.weight" in header.tensors}


def _scales(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Scales, soft caps, and layers without a rotary embedding."""
    result: dict[str, Any] = {}
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


def _of_old_kind(
    header: Header, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What the metadata and the tensors say of models with layer norms or FFNs without a gate."""
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


def _biases(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
    """Which maps have biases is in no metadata: their tensors are there or not."""
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
