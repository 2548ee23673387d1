"""Parrots: model folders that say what they were taught, so that a whole path can be tested.

A parrot is a Qwen2 of one layer, which the native engine, vLLM and transformers all run. What a real
model writes, special tokens and all, then goes through a real engine, its stop tokens and its parsers,
with no engine that is scripted.

How it works: attention head `n` looks at the token `n + 1` positions back, by rotary position alone, and
copies its code to a place of its own in the hidden state. So the MLP sees the codes of the last `CONTEXT`
tokens side by side. Each of its units knows one such context by heart and adds the code of the token
that follows it, which the language model's head turns into a logit.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.tokenizer.bytes_alone import make_byte_backend, spell

Array: TypeAlias = NDArray[np.float32]

CONTEXT = 8
"""How many tokens choose the next one."""
WIDTH = 64
"""Numbers in a token's code, and in an attention head."""
HEADS = CONTEXT + 2
"""A place in the hidden state for each token of the context, for the answer, and for a constant."""
HIDDEN = HEADS * WIDTH
ANSWER, CONSTANT = CONTEXT * WIDTH, HIDDEN - 1
_SHARPNESS, _LOUDNESS = 8.0, 20.0
_THETA = 10_000.0
_MOST_CUTS = 200


@dataclass(frozen=True)
class Lesson:
    """What a parrot says after a prompt."""

    prompt: str
    """Its last `CONTEXT` tokens count: a prompt in which the same stand at its end is the same."""
    says: str
    """The answer, with the marker that ends the turn, if the template writes one."""


def make_parrot(
    folder: Path,
    lessons: Sequence[Lesson],
    *,
    chat_template: str,
    special: Sequence[str],
    plain: Sequence[str] = (),
    bos: str | None = None,
    eos: Sequence[str],
) -> Path:
    """Make a model's folder.

    Args:
        special: the texts of the special tokens.
        plain: the texts of added tokens that are not special.
        eos: those that the files name as EOS, the tokenizer's first.

    Raises:
        ValueError: two lessons want different texts after one context.
    """
    special = list(dict.fromkeys([*special, *eos, *([bos] if bos else [])]))
    script = Script(lessons, special, plain, eos[0])
    backend = make_byte_backend(special, plain, sorted(script.words))
    ids = backend.get_vocab()
    follows = {
        tuple(ids[word] for word in context): ids[after]
        for context, after in script.follows.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    size = -(-len(ids) // 16) * 16
    save_file(_weights(follows, size), folder / "model.safetensors", {"format": "pt"})
    _write(folder, "tokenizer_config", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos[0],
        **({"bos_token": bos} if bos else {}),
        "chat_template": chat_template,
    })  # fmt: skip
    ends = [ids[text] for text in eos]
    _write(folder, "generation_config", {"eos_token_id": ends, "do_sample": False})
    _write(folder, "config", {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": _units(follows),
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": _THETA,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": ends,
    })  # fmt: skip
    return folder


def _write(folder: Path, name: str, values: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


# --- the text in tokens -------------------------------------------------------------------------


class Script:
    """The lessons in tokens, as a vocabulary spells them, and what follows each context in them.

    All but markers is cut into words of one to four characters. A lesson's cuts are drawn until no
    context has two continuations: where a text says the same twice, the two are cut differently.
    """

    def __init__(
        self, lessons: Sequence[Lesson], special: Sequence[str], plain: Sequence[str], eos: str
    ) -> None:
        """Cut the texts, each of which ends with `eos`.

        Raises:
            ValueError: two lessons want different texts after one context.
        """
        markers = sorted([*special, *plain], key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, markers)) + ")")
        self._bytes = make_byte_backend(special, plain)
        self._eos = eos
        self.words: set[str] = set()
        """What the vocabulary needs besides bytes and markers."""
        self.follows: dict[tuple[str, ...], str] = {}
        for lesson in lessons:
            self._add(lesson)
        self.words -= {*markers}

    def _add(self, lesson: Lesson) -> None:
        before = self._bytes.encode(lesson.prompt, add_special_tokens=False).tokens[-CONTEXT:]
        assert len(before) == CONTEXT, "the prompt is too short"
        parts = self._split.split(lesson.says)
        for seed in range(_MOST_CUTS):
            said = [*_pieces(parts, random.Random(seed)), self._eos]
            chain = [*before, *said]
            added = dict(self.follows)
            if all(
                added.setdefault(tuple(chain[at - CONTEXT : at]), chain[at]) == chain[at]
                for at in range(CONTEXT, len(chain))
            ):
                self.follows = added
                self.words |= {*said}
                return
        raise ValueError(f"Two texts after one context: {lesson.says!r} and another lesson.")


def _pieces(parts: list[str], draw: random.Random) -> Iterator[str]:
    """The tokens of a text that is split into other text and markers by turns."""
    for index, part in enumerate(parts):
        if index % 2:
            yield part
            continue
        while part:
            length = draw.randint(1, 4)
            yield spell(part[:length])
            part = part[length:]


# --- the weights --------------------------------------------------------------------------------


def _weights(follows: dict[tuple[int, ...], int], size: int) -> dict[str, Array]:
    """The model's tensors, for a vocabulary of `size` tokens."""
    layer = "model.layers.0"
    codes = np.random.default_rng(0).choice([-1.0, 1.0], (size, WIDTH)) / np.sqrt(WIDTH)
    codes = codes.astype(np.float32)
    embedding, head = _zeros(size, HIDDEN), _zeros(size, HIDDEN)
    embedding[:, :WIDTH], embedding[:, CONSTANT] = codes, 1
    head[:, ANSWER : ANSWER + WIDTH] = _LOUDNESS * codes
    ones = np.ones(HIDDEN, np.float32)
    return {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": ones,
        "lm_head.weight": head,
        f"{layer}.input_layernorm.weight": ones,
        f"{layer}.post_attention_layernorm.weight": ones,
        **{f"{layer}.self_attn.{name}": tensor for name, tensor in _attention().items()},
        **{f"{layer}.mlp.{name}.weight": tensor for name, tensor in _mlp(follows, codes).items()},
    }


def _attention() -> dict[str, Array]:
    """Heads that look back by 1 to `CONTEXT - 1` tokens; the last two look nowhere, and copy nothing.

    Queries and keys are the same for all tokens: biases alone. Rotated, their product at a distance is
    a sum of cosines, which is largest where the query was turned back by just this distance.
    """
    half = WIDTH // 2
    angles = _THETA ** (-np.arange(half, dtype=np.float32) * 2 / WIDTH)
    query, key = _zeros(HEADS, WIDTH), _zeros(HEADS, WIDTH)
    value, output = _zeros(HIDDEN, HIDDEN), _zeros(HIDDEN, HIDDEN)
    # An embedding has the length sqrt(2), a code's 1 and the constant's: the norm makes it sqrt(HIDDEN).
    scale = np.sqrt(2 / HIDDEN)
    for head in range(CONTEXT - 1):
        back = head + 1
        query[head, :half] = _SHARPNESS * np.cos(angles * back)
        query[head, half:] = -_SHARPNESS * np.sin(angles * back)
        key[head, :half] = _SHARPNESS
        place = slice(head * WIDTH, back * WIDTH)
        value[place, :WIDTH] = scale * np.eye(WIDTH)
        output[back * WIDTH : (back + 1) * WIDTH, place] = np.eye(WIDTH)
    return {
        "q_proj.weight": _zeros(HIDDEN, HIDDEN),
        "q_proj.bias": query.reshape(-1),
        "k_proj.weight": _zeros(HIDDEN, HIDDEN),
        "k_proj.bias": key.reshape(-1),
        "v_proj.weight": value,
        "v_proj.bias": _zeros(HIDDEN),
        "o_proj.weight": output,
    }


def _mlp(follows: dict[tuple[int, ...], int], codes: Array) -> dict[str, Array]:
    """A unit for each context: open where all its codes are there, shut where one is another."""
    units = _units(follows)
    gate, up, down = _zeros(units, HIDDEN), _zeros(units, HIDDEN), _zeros(HIDDEN, units)
    for unit, (context, after) in enumerate(follows.items()):
        for back, token in enumerate(reversed(context)):
            gate[unit, back * WIDTH : (back + 1) * WIDTH] = _SHARPNESS * codes[token]
        gate[unit, CONSTANT] = -_SHARPNESS * (CONTEXT - 0.5)
        up[unit, CONSTANT] = 1
        down[ANSWER : ANSWER + WIDTH, unit] = _LOUDNESS * codes[after]
    return {"gate_proj": gate, "up_proj": up, "down_proj": down}


def _units(follows: dict[tuple[int, ...], int]) -> int:
    return -(-len(follows) // WIDTH) * WIDTH


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)
