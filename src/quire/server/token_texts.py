"""The text and bytes of single tokens, as log-probabilities show them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING

from quire.errors import UnsupportedOptionError
from quire.outputs import TokenLogprob
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quire.constraints.vocabulary import Vocabulary

MIN_LOGPROB = -9999.0
"""OpenAI's number for minus infinity, which JSON does not have."""


class TokenTexts:
    """Token ids to text, and to bytes, since a token may hold part of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: Vocabulary | None = None
        self._fragments: dict[int, str] = {}

    @classmethod
    async def of(cls, tokenizer: Tokenizer) -> TokenTexts:
        """Made off the event loop, since reading a large vocabulary takes part of a second."""
        return await asyncio.to_thread(cls._read, tokenizer)

    @classmethod
    def _read(cls, tokenizer: Tokenizer) -> TokenTexts:
        from quire.constraints.vocabulary import Vocabulary

        texts = cls(tokenizer)
        try:
            texts._vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size)
        except UnsupportedOptionError:  # then the text is what the tokenizer decodes
            texts._vocabulary = None
        return texts

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of one token; a special token's are those of its name."""
        tokenizer = self._tokenizer
        if token_id in tokenizer.special_ids:
            return (tokenizer.id_to_token(token_id) or "").encode()
        if self._vocabulary is not None and token_id < self._vocabulary.num_tokens:
            return bytes(self._vocabulary.tokens.decode_bytes([token_id]))
        return tokenizer.decode([token_id], skip_special_tokens=False).encode()

    def text(self, token_id: int) -> str:
        """A token's text, with replacement characters for incomplete ones."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def entry(self, token_id: int, logprob: float) -> str:
        """JSON of one token, without its closing brace."""
        fragment = self._fragments.get(token_id)
        if fragment is None:
            raw = self.bytes_of(token_id)
            text, numbers = quoted(self.text(token_id)), ",".join(map(str, raw))
            fragment = f'{{"token":{text},"bytes":[{numbers}],"logprob":'
            self._fragments[token_id] = fragment
        return f"{fragment}{max(logprob, MIN_LOGPROB)!r}"

    def listed(self, logprobs: Iterable[TokenLogprob]) -> str:
        """JSON of a list of tokens with their alternatives."""
        return f"[{','.join(map(self._with_top, logprobs))}]"

    def _with_top(self, token: TokenLogprob) -> str:
        top = ",".join(f"{self.entry(token_id, value)}}}" for token_id, value in token.top.items())
        return f'{self.entry(token.token_id, token.logprob)},"top_logprobs":[{top}]}}'


class TokenIdTexts(TokenTexts):
    """Tokens named `token_id:7`, which vLLM's `return_tokens_as_token_ids` asks for."""

    def text(self, token_id: int) -> str:
        return f"token_id:{token_id}"
