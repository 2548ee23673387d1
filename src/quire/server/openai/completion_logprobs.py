"""The `logprobs` of /v1/completions: four lists, with each token's place in the text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Sequence
from typing import Any

from quire.outputs import TokenLogprob
from quire.server.token_texts import LEAST, TokenTexts


class LogprobWriter:
    """Writes the log-probabilities of one choice as they come.

    A token's offset is the number of whole characters before it; tokens that are not shown
    (`hidden`) take no place.
    """

    def __init__(self, texts: TokenTexts, hidden: Collection[int], *, with_top: bool) -> None:
        self._texts, self._hidden, self._with_top = texts, hidden, with_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(
        self,
        prompt: Sequence[TokenLogprob | None],
        prompt_ids: Sequence[int],
        tokens: Sequence[TokenLogprob],
    ) -> str:
        """JSON of the next tokens; the prompt's first token has no log-probability."""
        entries = [*zip(prompt_ids, prompt, strict=False), *((t.token_id, t) for t in tokens)]
        if not entries:
            return "null"
        names = [self._texts.text(token_id) for token_id, _ in entries]
        return json.dumps(
            {
                "tokens": names,
                "token_logprobs": [found and max(found.logprob, LEAST) for _, found in entries],
                "top_logprobs": [self._top(found) for _, found in entries]
                if self._with_top
                else None,
                "text_offset": [self._place(token_id) for token_id, _ in entries],
            }
        )

    def _top(self, found: TokenLogprob | None) -> dict[str, Any] | None:
        if found is None:
            return None
        rivals = {**found.top, found.token_id: found.logprob}
        top: dict[str, float] = {}
        for token_id, logprob in rivals.items():  # two parts of characters may look alike
            top.setdefault(self._texts.text(token_id), max(logprob, LEAST))
        return top

    def _place(self, token_id: int) -> int:
        offset = self._offset
        if token_id not in self._hidden:
            self._offset += len(self._decoder.decode(self._texts.bytes_of(token_id)))
        return offset


def of_prompt(
    logprobs: Sequence[TokenLogprob | None], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities in vLLM's form: by token id, the token itself and its rivals."""
    return [found and _position(found, texts) for found in logprobs]


def _position(found: TokenLogprob, texts: TokenTexts) -> dict[str, Any]:
    ranks = {token_id: rank for rank, token_id in enumerate(found.top, start=1)}
    ranks[found.token_id] = found.rank
    return {
        str(token_id): {
            "logprob": max(logprob, LEAST),
            "rank": ranks[token_id],
            "decoded_token": texts.text(token_id),
        }
        for token_id, logprob in {found.token_id: found.logprob, **found.top}.items()
    }
