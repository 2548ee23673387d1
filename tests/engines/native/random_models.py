"""Tiny models with random weights, written to a folder as the hub would hold them: the tests' subjects.

Torch and transformers make them and are also the oracle; nothing under `src` sees either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from tests.engines.native.random_configs import CONFIGS, auto_class, config_of

# The oracle computes tiny models: a second thread costs it more than it gains.
torch.set_num_threads(1)

_SCALES = ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier")

# Types that transformers lacks: what the config of such a model has instead of its equal's keys.
_EQUALS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bailing_moe_v2": lambda equal: {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "num_experts": equal["n_routed_experts"],
        "num_shared_experts": equal["n_shared_experts"],
    },
    "internlm2": lambda equal: {
        "architectures": ["InternLM2ForCausalLM"],
        "bias": equal["attention_bias"],
    },
    "internlm3": lambda equal: {
        "architectures": ["InternLM3ForCausalLM"],
        "qkv_bias": equal["attention_bias"],
        "bias": equal["mlp_bias"],
    },
    "mimo": lambda _: {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1},
    "minicpm": lambda equal: {
        "architectures": ["MiniCPMForCausalLM"],
        "scale_emb": equal["embedding_multiplier"],
        "scale_depth": equal["residual_multiplier"] * equal["num_hidden_layers"] ** 0.5,
        "dim_model_base": equal["hidden_size"] / equal["logits_scaling"],
    },
    "telechat3": lambda equal: {
        "architectures": ["TeleChat3ForCausalLM"],
        "rope_parameters": {**equal["rope_parameters"], "rope_type": "telechat3-yarn"},
    },
}

ORACLE = "oracle"  # the folder inside a model's of its equal, where transformers lacks the type
KINDS = tuple(CONFIGS)


def make_random_model(
    folder: Path | str,
    kind: str = "llama2",
    *,
    seed: int = 0,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    fused_experts: bool = False,
    **overrides: Any,
) -> Path:
    """Write a random model of one of `KINDS` into `folder` and return the folder.

    `overrides` are keys of the model's `config.json`; `max_shard_size="100KB"` makes several files.
    Biases and norm weights are random too (transformers starts them at 0 and 1, which hides faults).
    `fused_experts` writes all experts of a layer as one tensor, as some folders have them; else each
    has its own. The same arguments make the same weights.
    """
    folder = Path(folder)
    config = config_of(kind, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 or "norm." in name:
                    at_zero = name.endswith("bias") or _has_norms_at_zero(name, kind)
                    parameter.copy_((not at_zero) + 0.2 * torch.randn_like(parameter))
                elif name.endswith("_bias"):  # of experts; some are large enough to be clamped
                    parameter.copy_(3 * torch.randn_like(parameter))
                if name.endswith(".A_log"):  # slow enough that a state remembers
                    parameter.copy_(torch.randn_like(parameter) - 2)
            for name, values in model.state_dict().items():
                # A buffer, or two-dimensional.
                if name.endswith(("e_score_correction_bias", "feed_forward.expert_bias")):
                    values.copy_(0.2 * torch.randn_like(values))
                if name.endswith("layer_scalar"):  # a buffer
                    values.copy_(1 + 0.2 * torch.randn_like(values))
    model.to(getattr(torch, dtype)).save_pretrained(
        folder, max_shard_size=max_shard_size, save_original_format=not fused_experts
    )
    if kind in _EQUALS:
        _write_equal(folder, kind)
    if kind == "olmo_hybrid":
        _mend_olmo_hybrid(folder)
    if kind == "kimi_linear":
        _mend_kimi_linear(folder)
    return folder


def _has_norms_at_zero(name: str, kind: str) -> bool:
    """Whether a norm's weights are stored without the 1 that is added to them."""
    if kind.startswith(("qwen3_next", "qwen3_5")):
        return not name.endswith("linear_attn.norm.weight")
    if kind.startswith(("gemma3n", "gemma4")):
        return False
    return kind.startswith("gemma") or kind == "nemotron"


def config_values(kind: str) -> dict[str, Any]:
    """What the `config.json` of a random model holds."""
    values = config_of(kind).to_dict()
    return _as_type(kind, values) if kind in _EQUALS else values


def _as_type(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a model from that of its equal."""
    kept = {key: value for key, value in config.items() if key not in _SCALES}
    return {**kept, "model_type": kind, **_EQUALS[kind](config)}


def _write_equal(folder: Path, kind: str) -> None:
    """Turn a folder into that of an equal type which transformers does not have; it goes inside."""
    own = folder / ORACLE
    own.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, own / name)
    config = json.loads((own / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(_as_type(kind, config)))
    if kind == "internlm2":
        _write_as_internlm2(folder, config, load_file(own / "model.safetensors"))
    if kind == "bailing_moe_v2":
        _write_as_bailing(folder, load_file(own / "model.safetensors"))


def _write_as_internlm2(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    """Write a Llama's tensors as InternLM2's.

    The layout is that of InternLM2's own code: `wqkv` viewed as (kv heads, group + 2, head, hidden)
    has the group's queries, then its key, then its value.
    """
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    names = {
        "embed_tokens": "tok_embeddings", "lm_head": "output", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    made: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{role}_proj")] for role in "qkv"]
            groups = [part.view(kv_heads, -1, size, *part.shape[1:]) for part in parts]
            fused = torch.cat(groups, dim=1).reshape(-1, *value.shape[1:])
            made[name.replace("self_attn.q_proj", "attention.wqkv")] = fused
        elif ".k_proj." not in name and ".v_proj." not in name:
            for llama, internlm2 in names.items():
                name = name.replace(llama, internlm2)
            made[name] = value
    save_file(made, folder / "model.safetensors")


def _write_as_bailing(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write the tensors of a GLM-4.5 with norms of heads as Ling 2.0's, which computes the same."""
    names = {
        "embed_tokens": "word_embeddings", "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "e_score_correction_bias": "expert_bias",
    }  # fmt: skip
    made: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{role}_proj")] for role in "qkv"]
            made[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for glm, bailing in names.items():
                name = name.replace(glm, bailing)
            made[name] = value
    save_file(made, folder / "model.safetensors")


def _mend_kimi_linear(folder: Path) -> None:
    """Write Kimi Linear's dense FFN as its publishers do: transformers names it as if it had experts."""
    path = folder / "model.safetensors"
    made: dict[str, torch.Tensor] = {}
    for name, value in load_file(path).items():
        prefix, _, last = name.partition(".block_sparse_moe.")
        is_dense = last.startswith(("gate_proj", "up_proj", "down_proj"))
        made[f"{prefix}.mlp.{last}" if is_dense else name] = value
    save_file(made, path, {"format": "pt"})


def _mend_olmo_hybrid(folder: Path) -> None:
    """Write OLMo Hybrid's tensors as its publishers do.

    transformers cuts the convolution into thirds, though values are wider than queries and keys, and
    renames a norm of the layers with attention that has no other name in their folder.
    """
    path = folder / "model.safetensors"
    tensors, config = load_file(path), json.loads((folder / "config.json").read_text())
    made: dict[str, torch.Tensor] = {}
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    for name, value in tensors.items():
        layer = name.rpartition(".linear_attn.")[0]
        if ".q_conv1d." in name:
            parts = [tensors[name.replace("q_conv1d", f"{role}_conv1d")] for role in "qkv"]
            whole = torch.cat(parts)
            sizes = [keys, keys, len(whole) - 2 * keys]
            for role, part in zip("qkv", whole.split(sizes), strict=True):
                made[f"{layer}.linear_attn.{role}_conv1d.weight"] = part.contiguous()
        elif f"{name.rpartition('.feedforward_layer_norm.')[0]}.self_attn.q_norm.weight" in tensors:
            made[name.replace("feedforward_layer_norm", "post_attention_layernorm")] = value
        elif "_conv1d." not in name:
            made[name] = value
    save_file(made, path, {"format": "pt"})


def load_oracle(folder: Path | str) -> Any:
    """Return transformers' own model of `folder`, in float32 with eager attention."""
    own = Path(folder) / ORACLE
    folder = own if own.is_dir() else folder
    config = AutoConfig.from_pretrained(folder)
    model = auto_class(config).from_pretrained(
        folder,
        dtype=torch.float32,
        # Falcon's eager attention adds ALiBi twice: to the scores, and with the mask.
        attn_implementation="sdpa" if config.model_type == "falcon" else "eager",
        experts_implementation="eager",  # others want sizes in whole 16 bytes
    )
    return model.eval()


def of_torch(model: Any, ids: list[int]) -> NDArray[np.float32]:
    """The logits of the oracle, or of peft's model around it."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()
