"""A model's vocabulary as llguidance needs it."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from quire.errors import UnsupportedOptionError
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """What all grammars of one model share: the bytes of its tokens, in llguidance's own tree.

    `end` is the id of a token that the model does not have. llguidance allows it exactly where the
    grammar accepts, so that each request decides for itself which tokens end a completion. Ids from
    `num_tokens` to `size`, by which a model's logits may exceed its tokenizer, are no tokens.

    Raises:
        UnsupportedOptionError: a kind of tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, *, special_names: bool = False) -> None:
        """`special_names`: whether a grammar may name special tokens.

        Text that reads like such a name is then taken for the special token where a grammar leaves
        no choice, and refused. So special tokens keep their names only for grammars that use them.
        """
        from llguidance import LLTokenizer

        self.size = size
        self.num_tokens = tokenizer.vocab_size
        backend = Backend.from_str(
            tokenizer.backend.to_str()
        )  # a copy: the original stays as it is
        backend.no_padding()
        backend.no_truncation()
        end_name = f"<|end {secrets.token_hex(8)}|>"
        backend.add_special_tokens([end_name])
        self.end = backend.token_to_id(end_name) or 0
        content = backend.to_str() if special_names else _without_special_names(backend.to_str())
        self.tokens: LLTokenizer
        try:
            self.tokens = LLTokenizer(content, eos_token=self.end)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # llguidance's panics are not Exceptions
            raise UnsupportedOptionError(
                f"response_format: llguidance cannot read this model's tokenizer: {error}"
            ) from None


def _without_special_names(content: str) -> str:
    """Return a tokenizer's JSON in which special tokens have random names, which no text contains."""
    tokenizer: dict[str, Any] = json.loads(content)
    salt = secrets.token_hex(8)
    names: dict[str, str] = {}
    for token in tokenizer["added_tokens"]:
        if token["special"]:
            name = names[token["content"]] = f"<|{token['id']} {salt}|>"
            token["content"] = name
    model: dict[str, Any] = tokenizer["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): token for text, token in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: pieces with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps(tokenizer)
