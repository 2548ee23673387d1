"""A model's tokens as llguidance needs them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

from quire.errors import UnsupportedOptionError
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """What every grammar of one model shares: the bytes of its tokens, in llguidance's own tree.

    `end` is the id of a token that the model does not have. llguidance allows it exactly where the
    grammar accepts, so that which tokens end a completion stays each request's own affair. Ids
    from `num_tokens` to `size`, by which a model's logits may exceed its tokenizer, are no tokens.

    Raises:
        UnsupportedOptionError: a kind of tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        from llguidance import LLTokenizer

        self.size = size
        self.num_tokens = tokenizer.vocab_size
        backend = Backend.from_str(tokenizer.backend.to_str())
        backend.no_padding()
        backend.no_truncation()
        name = f"<|end {secrets.token_hex(8)}|>"
        backend.add_special_tokens([name])
        self.end = backend.token_to_id(name) or 0
        self.tokens: LLTokenizer
        try:
            self.tokens = LLTokenizer(backend.to_str(), eos_token=self.end)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust code is no Exception
            raise UnsupportedOptionError(
                f"response_format: llguidance cannot read this model's tokenizer: {error}"
            ) from None
