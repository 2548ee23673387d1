"""Texts encoded without the interpreter's lock, and found too long before they are encoded whole.

The library's `encode` keeps the lock, so that a long text would stop every other thread; its batches
give it free. An encoding takes some hundred bytes for each token.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from quire.errors import RequestError

_PIECE = 2**16
"""Characters of a piece whose tokens are counted at once."""
_CERTAIN = 2
"""Pieces have tokens cut in two at their ends, and a little more than the text as a whole: a text has
more tokens than allowed where its pieces have so many times as many."""


def encode_fast(backend: Backend, text: str) -> list[int]:
    """The ids alone: the library then keeps no account of where each token stands.

    Raises:
        RequestError: see `encode_whole`.
    """
    return _encoding(backend, text, offsets=False).ids


def encode_with_offsets(backend: Backend, text: str) -> Encoding:
    """The encoding with the place of each token in the text.

    Raises:
        RequestError: the library cannot encode the text.
    """
    return _encoding(backend, text, offsets=True)


def _encoding(backend: Backend, text: str, *, offsets: bool) -> Encoding:
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    try:
        return encode([text], add_special_tokens=False)[0]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library's panics are not Exceptions
        raise RequestError(f"The text cannot be tokenised: {_reason(error)}.") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, (UnicodeEncodeError, TypeError)):
        return "it holds a lone surrogate, which is no valid Unicode text"
    return f"the tokenizer fails at it ({str(error)[:200]})"


def exceeds(backend: Backend, texts: Iterable[str], most: int) -> bool:
    """Whether texts certainly have more than `most` tokens in all.

    They are not encoded whole, but counted piece by piece until that is certain. False says nothing,
    but that they have little more than twice as many.
    """
    count = 0
    for text in texts:
        for start in range(0, len(text), _PIECE):
            count += len(_encoding(backend, text[start : start + _PIECE], offsets=False))
            if count > _CERTAIN * most:
                return True
    return False


def beginning(backend: Backend, text: str, most: int) -> str:
    """The beginning of a text that certainly has the text's first `most` tokens, or the whole text."""
    count = 0
    for start in range(0, len(text), _PIECE):
        count += len(_encoding(backend, text[start : start + _PIECE], offsets=False))
        if count > _CERTAIN * most + _PIECE // 64:
            return text[: start + _PIECE]
    return text
