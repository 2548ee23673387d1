"""Copies of a tokenizer in which every control token has another name.

Normaliser, pre-tokenizer and model are the tokenizer's, and so are the ids that come out, so that
everything else is encoded as the tokenizer encodes it.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.tokenizer.encoding import encode_fast

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class RenamedCopy:
    """One copy. It is never changed, so threads may use it at once."""

    backend: Backend
    names: Mapping[str, str]
    """The random name of each control text."""
    ids: Mapping[int, int]
    """From the copy's ids to the tokenizer's, where these differ."""
    forbidden: frozenset[int]
    """Ids that mean that the model itself has made a control token, and the copy is of no use."""

    def encode(self, text: str, ranges: Sequence[tuple[int, int]]) -> list[int] | None:
        """The tokenizer's ids of a text in which control tokens are those at `ranges` alone.

        Returns:
            None where this copy cannot give them.
        """
        pieces: list[str] = []
        done = 0
        for start, end in ranges:
            pieces += [text[done:start], self.names[text[start:end]]]
            done = end
        renamed = "".join(pieces) + text[done:]
        ids = encode_fast(self.backend, renamed)
        if not self.forbidden.isdisjoint(ids):
            return None
        return [self.ids.get(number, number) for number in ids]


def share_model(
    backend: Backend, added: Mapping[int, AddedToken], controls: Mapping[int, str]
) -> RenamedCopy | None:
    """A copy that shares the model: milliseconds, where `copy_model` takes a second and 100 MB.

    Added tokens get new ids in it, and these are translated back. The model still knows its own
    pieces: where it makes a control token out of text, as a SentencePiece model may of `</s>`, the
    copy gives no ids.

    Args:
        added: the added tokens by id.
        controls: the ids and texts of those that are control tokens.

    Returns:
        None where new ids would be those of other tokens: some vocabularies have gaps.
    """
    names = _new_names(controls.values(), added.values())
    copy = Backend(backend.model)
    if backend.normalizer is not None:
        copy.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        copy.pre_tokenizer = backend.pre_tokenizer
    copy.add_tokens([_renamed(token, names) for token in added.values()])
    ids: dict[int, int] = {}
    for number, token in added.items():
        name = names.get(token.content, token.content)
        new = copy.token_to_id(name)
        known = None if new is None else backend.model.id_to_token(new)
        if new is None or (known is not None and (known != name or new != number)):
            return None
        ids[new] = number
    return RenamedCopy(copy, names, ids, frozenset(controls) - frozenset(ids))


def _renamed(token: AddedToken, names: Mapping[str, str]) -> AddedToken:
    is_renamed = token.content in names
    return AddedToken(
        names.get(token.content, token.content),
        single_word=token.single_word and not is_renamed,  # looked at before a text is renamed
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def copy_model(
    backend: Backend, added: Mapping[int, AddedToken], controls: Mapping[int, str]
) -> RenamedCopy:
    """A copy with a model of its own, in which the control tokens' pieces are renamed as well."""
    names = _new_names(controls.values(), added.values())
    state: dict[str, Any] = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = state["post_processor"] = None
    for token in state["added_tokens"]:
        if token["content"] in names:
            token["content"] = names[token["content"]]
            token["single_word"] = False
    _rename_model(state["model"], names)
    copy = Backend.from_str(json.dumps(state, ensure_ascii=False))
    assert all(backend.token_to_id(old) == copy.token_to_id(new) for old, new in names.items())
    return RenamedCopy(copy, names, {}, frozenset())


def _rename_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename the model's own entries too: else it could make them again out of literal text."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: pieces with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    else:
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _makes(merge: str | Sequence[str], names: Mapping[str, str]) -> bool:
    """Whether a merge makes a renamed token, or is made of one."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names


def _new_names(texts: Iterable[str], added: Iterable[AddedToken]) -> dict[str, str]:
    """A name for each text, of lower-case letters, which normalisers leave alone.

    All names begin with the same 22 random letters (103 bits), which nobody can guess, and go on with
    a number written in letters: a vocabulary may have thousands of control tokens, and random letters
    for each would take longer than all else here. No added token ends as a name begins, so literal
    text before a name cannot swallow its beginning.
    """
    last = {token.content[-1:].lower() for token in added}
    secret = secrets.choice([letter for letter in _LETTERS if letter not in last] or _LETTERS)
    secret += "".join(secrets.choice(_LETTERS) for _ in range(21))
    numbers = itertools.product(_LETTERS, repeat=5)
    return {text: secret + "".join(next(numbers)) for text in texts}
