"""Parrots: model folders that write one given text, token for token, on any engine.

With one, the whole way of a format is tested on what a real model writes: the engine, its stop tokens,
the detokenizer and the reader.

A parrot is a Qwen2 of one layer. Its heads copy the `LOOK` tokens before the last one, and each unit of
its MLP knows one place of the text by these `LOOK + 1` tokens, and writes the next token. Pieces of the
text are entries of the vocabulary that only the model writes, so that a place is known by few tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, pre_tokenizers

WIDTH = 64
"""The width of a token's own direction, and of a head."""
LOOK = 5
"""How many tokens before the last one choose the next."""
THETA = 10000.0

Floats = NDArray[np.float32]


def make_parrot(
    folder: Path,
    text: str,
    *,
    prompt: str,
    chat_template: str,
    markers: Sequence[str],
    eos: Sequence[str],
) -> Path:
    """Write the folder of a model that answers with `text`.

    Args:
        text: what the model writes, with the marker that ends it.
        prompt: the end of any prompt, from which the model begins.
        markers: the texts of special tokens.
        eos: those of them that the folder's files name as EOS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids, sequence = _vocabulary(text, markers)
    _write_tokenizer(folder, ids, markers, eos[0], chat_template)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    chain = [*backend.encode(prompt, add_special_tokens=False).ids[-LOOK - 1 :], *sequence]
    size = -(-len(ids) // 16) * 16
    tensors = _weights(_places(chain), size)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    hidden, heads = WIDTH * (LOOK + 3), LOOK + 3
    eos_ids = [ids[word] for word in eos]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": size,
        "hidden_size": hidden,
        "intermediate_size": tensors["model.layers.0.mlp.up_proj.weight"].shape[0],
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_theta": THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": eos_ids,
    }
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": eos_ids, "do_sample": False})
    return folder


def _vocabulary(text: str, markers: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """The vocabulary, bytes first, and the text's token ids in it."""
    alphabet = _byte_alphabet()
    ids = {alphabet[byte]: byte for byte in range(256)}
    pattern = "(" + "|".join(map(re.escape, sorted(markers, key=len, reverse=True))) + ")"
    words: list[str] = []
    taken = {chr(byte) for byte in range(128)}
    for part in filter(None, re.split(pattern, text)):
        if part in markers:
            words.append(part)
            continue
        for piece in _pieces(part, taken):
            words.append("".join(alphabet[byte] for byte in piece.encode()))
            ids.setdefault(words[-1], len(ids))
    for marker in markers:
        ids.setdefault(marker, len(ids))
    return ids, [ids[word] for word in words]


def _pieces(text: str, taken: set[str]) -> list[str]:
    """A text cut into short pieces, none of which stands anywhere else, but for a last one."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = min(start + 2, len(text))
        while end < len(text) and text[start:end] in taken:
            end += 1
        piece = text[start:end]
        if piece in taken and pieces:
            piece = pieces.pop() + piece
        taken.add(piece)
        pieces.append(piece)
        start = end
    return pieces


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    alphabet = [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]
    assert sorted(alphabet) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return alphabet


def _write_tokenizer(
    folder: Path, ids: dict[str, int], markers: Sequence[str], eos: str, chat_template: str
) -> None:
    added = [
        {
            "id": ids[marker],
            "content": marker,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for marker in markers
    ]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    vocabulary = {word: number for word, number in ids.items() if word not in markers}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    _write(folder / "tokenizer.json", tokenizer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    _write(folder / "tokenizer_config.json", settings)


def _places(chain: Sequence[int]) -> dict[tuple[int, ...], int]:
    """The next token by the `LOOK + 1` before it."""
    known: dict[tuple[int, ...], int] = {}
    for index in range(len(chain) - LOOK - 1):
        key, after = tuple(chain[index : index + LOOK + 1]), chain[index + LOOK + 1]
        assert known.setdefault(key, after) == after, "two ways on from one place of the text"
    return known


def _weights(places: dict[tuple[int, ...], int], size: int) -> dict[str, Floats]:
    """The model's tensors. Its hidden state has a block for each token that it looks at, one for the
    answer, and a constant at its end."""
    heads = LOOK + 3
    hidden, answer = heads * WIDTH, slice((LOOK + 1) * WIDTH, (LOOK + 2) * WIDTH)
    signs = np.random.default_rng(7).choice([-1.0, 1.0], (size, WIDTH))
    own = (signs / np.sqrt(WIDTH)).astype(np.float32)
    embeddings = _zeros(size, hidden)
    embeddings[:, :WIDTH], embeddings[:, -1] = own, 1
    units = -(-len(places) // 64) * 64
    gate, up, down = _zeros(units, hidden), _zeros(units, hidden), _zeros(hidden, units)
    for unit, (key, after) in enumerate(places.items()):
        for back, token in enumerate(reversed(key)):
            gate[unit, back * WIDTH : (back + 1) * WIDTH] = 8 * own[token]
        gate[unit, -1] = -8 * (LOOK + 0.5)
        up[unit, -1] = 1
        down[answer, unit] = 20 * own[after]
    head = _zeros(size, hidden)
    head[:, answer] = 20 * own
    frequencies = 1.0 / THETA ** (np.arange(WIDTH // 2) * 2 / WIDTH)
    half = WIDTH // 2
    query, key_bias = _zeros(heads, WIDTH), _zeros(heads, WIDTH)
    values, output = _zeros(hidden, hidden), _zeros(hidden, hidden)
    for one, (start, end) in enumerate(pairwise(range(0, (LOOK + 1) * WIDTH, WIDTH))):
        # The score is highest at the distance one + 1. The norm scales embeddings, of length
        # sqrt 2, by sqrt(hidden / 2).
        query[one, :half] = 9 * np.cos(frequencies * (one + 1))
        query[one, half:] = -9 * np.sin(frequencies * (one + 1))
        key_bias[one, :half] = 9
        values[start:end, :WIDTH] = np.eye(WIDTH) / np.sqrt(hidden / 2)
        output[end : end + WIDTH, start:end] = np.eye(WIDTH)
    norm, layer = np.ones(hidden, np.float32), "model.layers.0."
    return {
        "model.embed_tokens.weight": embeddings,
        "lm_head.weight": head,
        "model.norm.weight": norm,
        f"{layer}input_layernorm.weight": norm,
        f"{layer}post_attention_layernorm.weight": norm,
        f"{layer}self_attn.q_proj.weight": _zeros(hidden, hidden),
        f"{layer}self_attn.q_proj.bias": query.reshape(-1),
        f"{layer}self_attn.k_proj.weight": _zeros(hidden, hidden),
        f"{layer}self_attn.k_proj.bias": key_bias.reshape(-1),
        f"{layer}self_attn.v_proj.weight": values,
        f"{layer}self_attn.v_proj.bias": _zeros(hidden),
        f"{layer}self_attn.o_proj.weight": output,
        f"{layer}mlp.gate_proj.weight": gate,
        f"{layer}mlp.up_proj.weight": up,
        f"{layer}mlp.down_proj.weight": down,
    }


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
