"""A model's vocabulary as llguidance needs it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

from quire.errors import UnsupportedOptionError
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


def control_texts(tokenizer: Tokenizer) -> frozenset[str]:
    """The texts of the added tokens that llguidance takes for none of the text that they read like."""
    return frozenset(
        token.content
        for token in tokenizer.added_tokens.values()
        if token.special or (token.content.startswith("<") and token.content.endswith(">"))
    )


class Vocabulary:
    """What all grammars of one model share: the bytes of its tokens, in llguidance's own tree.

    `end` is the id of a token that the model does not have. llguidance allows it exactly where the
    grammar accepts, so that each request decides for itself which tokens end a completion. Ids from
    `num_tokens` to `size`, by which a model's logits may exceed its tokenizer, are no tokens.

    Raises:
        UnsupportedOptionError: a kind of tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        from llguidance import LLTokenizer

        self.size = size
        self.num_tokens = tokenizer.vocab_size
        # A copy: the original stays as it is.
        backend = Backend.from_str(tokenizer.backend.to_str())
        backend.no_padding()
        backend.no_truncation()
        end_name = f"<|end {secrets.token_hex(8)}|>"
        backend.add_special_tokens([end_name])
        self.end = backend.token_to_id(end_name) or 0
        self.tokens: LLTokenizer
        try:
            self.tokens = LLTokenizer(backend.to_str(), eos_token=self.end)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # llguidance's panics are not Exceptions
            raise UnsupportedOptionError(
                f"response_format: llguidance cannot read this model's tokenizer: {error}"
            ) from None
