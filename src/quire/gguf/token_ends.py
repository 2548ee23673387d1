"""Which tokens end an answer: the file's keys name few of them, the tokens' texts tell the rest.

Gemma 3's files, for one, name `<eos>` alone, and its chats end with `<end_of_turn>`. The texts are those that
llama.cpp goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quire.gguf.token_vocabulary import CONTROL, NORMAL, FileVocabulary, Keys

_TEXTS: Final = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[e~[",
)
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "eot_token_id": (),
    "eom_token_id": (),
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep_token_id": ("<|file_sep|>",),
}
"""Tokens that end an answer, by their keys and (where the key is missing) by the first of these texts."""


def end_ids(keys: Keys, vocabulary: FileVocabulary, eos: int | None) -> tuple[int, ...]:
    """The ids of the tokens that end an answer, EOS first."""
    ids = vocabulary.ids
    ends = {ids[text] for text in _TEXTS if text in ids}
    if "</s>" in ids and not _is_control(vocabulary, ids["</s>"]):
        # Gemma and Qwen 2 have it as a text: in HTML it ends what is struck out.
        ends.remove(ids["</s>"])
    for key, texts in _KEYS.items():
        number = keys.token_id(f"tokenizer.ggml.{key}", len(vocabulary))
        if number is None:
            number = next((ids[text] for text in texts if text in ids), None)
        if number is not None:
            ends.add(number)
    if eos is not None:
        ends.add(eos)
    ends -= {
        ids[text] for text in _no_ends({vocabulary.tokens[end] for end in ends}) if text in ids
    }
    return tuple(sorted(ends, key=lambda end: (end != eos, end)))


def _is_control(vocabulary: FileVocabulary, number: int) -> bool:
    has_types = bool((vocabulary.types != NORMAL).any())
    return vocabulary.types[number] == CONTROL or not has_types


def _no_ends(texts: set[str]) -> set[str]:
    """Texts that end something else than an answer, where these others do so."""
    others: set[str] = set()
    calls = texts & {"<|call|>", "<|calls|>"}
    if calls and texts & {"<|return|>", "<|flush|>"}:  # of Harmony and of Solar: a message ends
        others.add("<|end|>")
    if texts & {"<|tool_response>", "<|plamo:eos|>"}:  # a plain token of Gemma 4 and of PLaMo
        others.add("</s>")
    return others
