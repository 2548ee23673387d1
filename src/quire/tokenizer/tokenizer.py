"""A model's tokenizer: Hugging Face's `tokenizers` library, and what a folder says about it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.errors import ConfigError
from quire.prompt import Span, Spans
from quire.tokenizer.folder import ChatTemplate, load_backend, load_settings
from quire.tokenizer.guard import Guard, encode_fast


class Tokenizer:
    """Text to token ids and back. May be used from several threads at once.

    `special_tokens` names the special tokens as a chat template sees them (`bos_token`,
    `eos_token`, ...). Only `add_tokens` changes it; call that before the tokenizer is shared.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: ChatTemplate = None,
    ) -> None:
        self.backend = backend
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})
        self._lock = threading.Lock()
        self._guards: dict[frozenset[str], Guard] = {}
        # A format writes the same before every conversation, as its default system prompt.
        self._encode_own = functools.lru_cache(maxsize=64)(self.encode)
        self._look_at_added()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Load a model folder's tokenizer.

        Raises:
            ModelNotFoundError: the folder holds no tokenizer.
            UnsupportedModelError: its tokenizer's files cannot be read.
        """
        folder = Path(folder)
        backend = load_backend(folder)
        settings = load_settings(folder, backend)
        return cls(
            backend,
            special_tokens=settings.special_tokens,
            chat_template=settings.chat_template,
        )

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens.get("pad_token")

    @property
    def unk_token(self) -> str | None:
        return self.special_tokens.get("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        return self._id_of(self.unk_token)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all tokens marked special: those that `decode` skips."""
        return self._special_ids

    @property
    def special_texts(self) -> frozenset[str]:
        """The texts of all tokens marked special."""
        return self._special_texts

    @property
    def added_texts(self) -> frozenset[str]:
        """The texts of all added tokens, special or not."""
        return self._added_texts

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with no special tokens around; control tokens in it are seen as such."""
        return encode_fast(self.backend, text)

    def encode_whole(self, text: str, max_length: int | None = None) -> list[int]:
        """The ids of `text` with the special tokens that the tokenizer puts around a text.

        They are kept where `max_length` cuts the text: the ids are those of a call of
        transformers' tokenizer with `truncation=True`.
        """
        encoding = self.backend.encode(text, add_special_tokens=False)
        if max_length is not None:
            encoding.truncate(max(0, max_length - self.backend.num_special_tokens_to_add(False)))
        return self.backend.post_process(encoding, None, True).ids[:max_length]

    def encode_spans(self, spans: Spans, control: frozenset[str] = frozenset()) -> list[int]:
        """The ids of the spans as one string, with no control token arising from literal text.

        Control tokens are the added tokens that are marked special, and those whose text is in
        `control`. Where none of them touches a literal span, the ids are those of `encode`.
        """
        text = "".join(span.text for span in spans)
        if not text:
            return []
        if not any(span.literal and span.text for span in spans):
            return self._encode_own(text).copy()
        return self.guard(control).encode(spans)

    def encode_literal(self, text: str, control: frozenset[str] = frozenset()) -> list[int]:
        """The ids of text that is literal throughout."""
        return self.encode_spans((Span(text, literal=True),), control)

    def guard(self, control: frozenset[str]) -> Guard:
        """What encodes with these control texts, made once for each set of them."""
        guard = self._guards.get(control)
        if guard is None:
            with self._lock:
                guard = self._guards.get(control)
                if guard is None:
                    guard = Guard(self.backend, control, self.unk_token_id)
                    self._guards[control] = guard
        return guard

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    def add_tokens(self, tokens: Iterable[str], special: bool = False) -> int:
        """Add tokens to the vocabulary's end; return how many were new.

        Raises:
            ConfigError: a token is empty.
        """
        wanted = list(tokens)
        if not all(wanted):
            raise ConfigError("A token to add is empty.")
        new = [token for token in dict.fromkeys(wanted) if self.token_to_id(token) is None]
        with self._lock:
            self.backend.add_tokens(
                [AddedToken(token, special=special, normalized=not special) for token in wanted]
            )
            self._guards.clear()
            self._encode_own.cache_clear()
            self._look_at_added()
        return len(new)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    def _look_at_added(self) -> None:
        added = self.backend.get_added_tokens_decoder()
        special = {number: token for number, token in added.items() if token.special}
        self._special_ids = frozenset(special)
        self._special_texts = frozenset(token.content for token in special.values())
        self._added_texts = frozenset(token.content for token in added.values())
