"""GGUF files of models whose every matrix is random blocks of a type, and transformers' model of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from quire.gguf.blocks import dequantize
from quire.gguf.folder import open_source
from quire.gguf.tensor_types import type_named
from quire.gguf.weights import in_folder_order
from tests.engines.native.cpu.kernels.test_block_linear import HALVES, random_blocks
from tests.gguf.writing import write_file

WORDS = 300
HIDDEN, FFN, HEADS, KV_HEADS = 256, 512, 4, 2


def byte_tokens() -> list[str]:
    """GPT-2's letters for bytes, three special tokens, and words to fill the vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(one) for one in printable] + [chr(256 + one) for one in range(68)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [f"Ġ{chr(97 + i)}" for i in range(26)] + [f"a{chr(97 + i)}" for i in range(15)]
    return [*special, *letters, *words]


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant{{ '\\n' }}"
)


def metadata(architecture: str) -> dict[str, Any]:
    """Of a model of two layers."""
    tokens = byte_tokens()
    sizes = {
        "context_length": 512,
        "embedding_length": HIDDEN,
        "block_count": 2,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10_000.0,
    }
    return {
        "general.architecture": architecture,
        "general.type": "model",
        **{f"{architecture}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if one.startswith("<|") else 1 for one in tokens],
        "tokenizer.ggml.merges": ["Ġ a", "a b", "a c"],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_blocks(path: Path, kind: str, architecture: str = "llama", **changes: Any) -> Path:
    """A model whose every matrix is random blocks of a type, as large as trained weights are."""
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"token_embd.weight": (WORDS, HIDDEN), "output.weight": (WORDS, HIDDEN)}
    vectors = {"output_norm.weight": HIDDEN}
    for layer in range(2):
        name = f"blk.{layer}."
        shapes |= {
            f"{name}attn_q.weight": (HIDDEN, HIDDEN),
            f"{name}attn_k.weight": (kv, HIDDEN),
            f"{name}attn_v.weight": (kv, HIDDEN),
            f"{name}attn_output.weight": (HIDDEN, HIDDEN),
            f"{name}ffn_gate.weight": (FFN, HIDDEN),
            f"{name}ffn_up.weight": (FFN, HIDDEN),
            f"{name}ffn_down.weight": (HIDDEN, FFN),
        }
        vectors |= {f"{name}attn_norm.weight": HIDDEN, f"{name}ffn_norm.weight": HIDDEN}
        if architecture == "qwen2":
            for role, size in (("q", HIDDEN), ("k", kv), ("v", kv)):
                vectors[f"{name}attn_{role}.bias"] = size
    random = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        name: (1 + random.standard_normal(size) / 8).astype(np.float32)
        for name, size in vectors.items()
    }
    for name, shape in shapes.items():
        blocks = random_blocks(kind, *shape)
        spread = dequantize(kind, blocks).std()
        # A power of two: the scales stay what they are in all but their exponent.
        tensors[name] = (_scaled(kind, blocks, float(0.08 / spread)), kind)
    return write_file(path, {**metadata(architecture), **changes}, tensors)


def _scaled(kind: str, data: Any, factor: float) -> Any:
    """Blocks with their scales times a power of two near `factor`."""
    shift = round(np.log2(factor))
    blocks = data.reshape(-1, type_named(kind).bytes).copy()
    if kind == "MXFP4":
        blocks[:, 0] = np.clip(blocks[:, 0].astype(int) + shift, 1, 250)
    for at in HALVES[kind]:
        halves = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)
        blocks[:, at : at + 2] = (halves * np.float16(2.0**shift)).view(np.uint8)
    return blocks.reshape(data.shape)


class Oracle:
    """transformers' model with the weights of a file, dequantised."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        settings = AutoConfig.for_model(**config)
        self.model: Any = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
        source = open_source(folder)
        weights: dict[str, torch.Tensor] = {}
        for name in source.names():
            tensor = source.tensor(name)
            values = dequantize(tensor.type.name, np.ascontiguousarray(tensor.data))
            values = in_folder_order(values, tensor.tiles)
            weights[name] = torch.tensor(values.reshape(tensor.shape))
        missing = self.model.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        assert set(missing.missing_keys) <= {"lm_head.weight"}
        self.model.tie_weights()

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].double()


def divergence(reference: torch.Tensor, logits: Any) -> torch.Tensor:
    """The KL divergence from the reference, of each token."""
    own = torch.log_softmax(torch.tensor(np.asarray(logits)).double(), -1)
    true = torch.log_softmax(reference, -1)
    return (true.exp() * (true - own)).sum(-1)
