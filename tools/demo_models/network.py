"""The shapes of the demo models, and how they are saved. torch and transformers are used here."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, Qwen3Config

CONTEXT = 4096
ROPE_THETA = 10_000.0
# Head size 64, which every attention backend of vLLM runs; 4 heads over 2 key-value heads.
CHAT = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
REWARD = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
GENERATION = {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "top_k": 20}


def config(tokenizer: Tokenizer, shape: dict[str, int], **more: Any) -> Qwen3Config:
    """Return the configuration of a Qwen3 network of this shape."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_theta=ROPE_THETA,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
        **shape,
        **more,
    )


def new_model(tokenizer: Tokenizer, shape: dict[str, int], seed: int) -> Any:
    """Return an untrained causal language model."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config(tokenizer, shape, initializer_range=0.03))


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the weights in bfloat16, the configuration, and the settings for generation.

    The model itself stays in its own type.
    """
    import torch
    from transformers import GenerationConfig

    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.token_to_id("<|endoftext|>"), **GENERATION
    )
    deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    # transformers 5 writes `rope_parameters` alone; older readers look for `rope_theta`.
    _edit(folder / "config.json", rope_theta=ROPE_THETA)


def save_value_head(weight: torch.Tensor, bias: torch.Tensor, folder: Path) -> None:
    """Write the head as LLaMA-Factory does: weight of [1, hidden], bias of [1]."""
    import torch
    from safetensors.torch import save_file

    tensors = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(
        {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()},
        folder / "value_head.safetensors",
        metadata={"format": "pt"},
    )


def plain_base_name(folder: Path, name: str) -> None:
    """Name the adapter's base so that no path of the machine that made it stays behind."""
    _edit(folder / "adapter_config.json", base_model_name_or_path=name)


def _edit(path: Path, **changes: Any) -> None:
    settings = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
