"""A file's `config.json`: that of a Hugging Face folder of the same model, which the engine reads as any.

A file names an architecture of llama.cpp and has its sizes in the metadata. Much else that decides what
a model computes is in no file: llama.cpp has it in code, and `quire.gguf.architectures` has it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import WeightsError
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.architectures.glm import GLM4V
from quire.gguf.architectures.hybrid import BAMBA
from quire.gguf.architectures.table import ARCHITECTURES
from quire.gguf.config import mixers
from quire.gguf.config.biases import read_biases
from quire.gguf.config.classic import eps_key, read_classic
from quire.gguf.config.experts import expert_count, read_experts
from quire.gguf.config.gemma import gemma3n_keys, gemma4_keys
from quire.gguf.config.header import Header
from quire.gguf.config.refusals import refuse_what_is_not_computed
from quire.gguf.config.scales import read_scales
from quire.gguf.config.windows import read_query_scale, read_ropes, read_windows
from quire.gguf.reader import GgufFile
from quire.weights.hub_config import LLAMA_NAMES, short

_MOST_HEADS = 10_000
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}

_KINDS = {
    "adapter": "a LoRA adapter, and quire takes adapters as safetensors",
    "mmproj": "the part of a model that sees or hears, and not the model: give the other file",
    "imatrix": "a list of which weights matter, made for quantising, and no model",
}


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
            f"the native engine does not run the architecture {short(name)}. It runs {known}. Take the model's "
            "folder: it runs more types of these, and infer_backend: vllm may run others"
        )
    if not header.tensors:
        raise header.unsupported("it holds a vocabulary and no weights")
    if name == GLM4V.name and any(header.integers("rope.dimension_sections") or ()):
        return GLM4V
    return BAMBA if _is_bamba(header) else ARCHITECTURES[name]


def _is_bamba(header: Header) -> bool:
    """Whether a file of Granite 4's architecture has a Bamba, which scales nothing and rotates."""
    scales = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
    return (
        header.architecture == BAMBA.name
        and header.flag("rope.scaling.finetuned", True)
        and not any(key in header for key in scales)
    )


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
    refuse_what_is_not_computed(header, architecture)
    config = _sizes(header, architecture)
    if architecture.layer_inputs:
        keys = gemma4_keys(header) if architecture.name == "gemma4" else gemma3n_keys(header)
        config |= keys
        return config | read_biases(header, config)
    heads: int = config["num_attention_heads"]
    if architecture.mixer in ("short_conv", "mamba2", "beside", "kimi_delta"):
        kv_heads, attends = mixers.attention_layers(header, heads)
    else:
        kv_heads, attends = _heads(header, "attention.head_count_kv", heads), []
    if heads % kv_heads:
        raise header.wrong(
            header.key("attention.head_count_kv"), kv_heads, f"a divisor of the {heads} heads"
        )
    config["num_key_value_heads"] = kv_heads
    config["head_dim"] = _head_dim(header, architecture, config["hidden_size"] // heads)
    config |= read_windows(header, architecture, config)
    if architecture.rotary:
        config |= read_ropes(header, architecture, config)
        config |= read_query_scale(header, architecture, config)
    if not architecture.one_part or expert_count(header):
        config |= _ffn(header, architecture)
    config |= _query_key_norms(header, config)
    config |= read_scales(header, architecture, config)
    if architecture.llama_names:
        config |= {LLAMA_NAMES: True, **read_classic(header, architecture, config)}
    config |= _mixer(header, architecture, config, attends)
    return config | read_biases(header, config)


def _sizes(header: Header, architecture: Architecture) -> dict[str, Any]:
    """What the configs of all models say."""
    hidden, eps = header.integer("embedding_length"), eps_key(architecture)
    if architecture.one_part and eps not in header:  # Nemotron-H's has the name of the other kind
        eps = "attention.layer_norm_epsilon"
    return {
        "model_type": architecture.model_type,
        "torch_dtype": _dtype(header),
        "vocab_size": _vocabulary(header, hidden),
        "hidden_size": hidden,
        "num_hidden_layers": header.layers,
        "num_attention_heads": _heads(header, "attention.head_count"),
        "max_position_embeddings": header.integer("context_length"),
        architecture.eps: header.number(eps, maximum=1.0),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }


def _mixer(
    header: Header, architecture: Architecture, config: Mapping[str, Any], attends: list[bool]
) -> dict[str, Any]:
    """What layers have in place of attention; `attends` says which layers have that."""
    match architecture.mixer:
        case "latent":
            model_type = architecture.model_type
            if architecture.experts == "some":
                model_type = mixers.latent_type(header)
            return {**mixers.latent_keys(header, config), "model_type": model_type}
        case "kimi_delta":
            return mixers.kimi_keys(header, config, attends)
        case "delta_net":
            return mixers.delta_net_keys(header, is_tiled=architecture.tiled_values)
        case "short_conv":
            return mixers.short_conv_keys(header, attends, config["rms_norm_eps"])
        case "mamba2" if architecture.one_part:
            return mixers.one_part_keys(header, attends, config["rms_norm_eps"])
        case "mamba2":
            rotates = header.flag("rope.scaling.finetuned", True)
            keys = mixers.mamba2_keys(header, attends)
            if architecture is BAMBA:
                layers = [layer for layer, one in enumerate(attends) if one]
                return keys | {"attn_layer_indices": layers}
            return keys | {"position_embedding_type": "rope" if rotates else None}
        case "beside":
            return mixers.beside_keys(header)
        case "":
            return {}


def _heads(header: Header, key: str, default: int | None = None) -> int:
    return header.integer(key, default, maximum=_MOST_HEADS)


def _head_dim(header: Header, architecture: Architecture, default: int) -> int:
    """The size of a head, which is that of keys and of values, in all layers.

    With latent attention it is that of the part that is rotated, as in transformers.
    """
    if architecture.mixer in ("latent", "kimi_delta"):
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


def _ffn(header: Header, architecture: Architecture) -> dict[str, Any]:
    count = expert_count(header)
    if (architecture.experts == "none" and count) or (architecture.experts == "all" and not count):
        raise header.unsupported(
            f"{header.key('expert_count')} is {count}, which is not run for {architecture.name}"
        )
    # Its converter names both all the same.
    if architecture.model_type == "granitemoehybrid" and not count:
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
        return mixers.latent_type(header)
    has_shared = header.integer("expert_shared_feed_forward_length", 0, minimum=0) > 0
    if architecture.name == "granitemoe" and has_shared:
        return "granitemoeshared"
    return architecture.model_type


def _query_key_norms(header: Header, config: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a GLM-4.5 has norms of queries and keys is in no metadata: Air has none."""
    if config["model_type"] != "glm4_moe":
        return {}
    return {"use_qk_norm": "blk.0.attn_q_norm.weight" in header.tensors}
