"""When a completion ends, and what of its text may be shown until then."""

from __future__ import annotations

from dataclasses import dataclass

from quire.constraints.matcher import Matcher
from quire.engines.native.core.detokenizer import Detokenizer
from quire.outputs import FinishReason
from quire.sampling import SamplingParams
from quire.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a completion ends."""

    reason: FinishReason
    stop_reason: str | int | None = None
    error: str | None = None
    refused: bool = False
    """Whether the error is the request's own fault."""


_STOP = Finish("stop")
_LENGTH = Finish("length")


class StopChecker:
    """Reads the tokens of one completion: the text that may be shown, and whether it ends.

    Invariant: the texts that `check` returns are together the completion's text or, where a stop
    string ends it, the text before that string. A stop token has no text. With
    `include_stop_str_in_output` the text ends with the string's, or the token's. Where the request
    wants the whole answer at once and has no stop string, the tokens are decoded at the end, all at
    once.
    """

    __slots__ = (
        "_detokenizer",
        "_matcher",
        "_params",
        "_stop_strings",
        "_stop_tokens",
        "_undecoded",
    )

    def __init__(
        self, params: SamplingParams, detokenizer: Detokenizer, matcher: Matcher | None
    ) -> None:
        self._params = params
        self._detokenizer = detokenizer
        self._matcher = matcher
        keep = params.include_stop_str_in_output
        self._stop_strings = StopStrings(params.stop, keep=keep) if params.stop else None
        eos = () if params.ignore_eos else params.eos_token_ids
        self._stop_tokens = frozenset((*params.stop_token_ids, *eos))
        self._undecoded: list[int] | None = None if params.streamed or params.stop else []

    def check(self, token: int, num_outputs: int) -> tuple[str, Finish | None]:
        """Read the newest token, the `num_outputs`-th. The finish is None where it goes on.

        Before `min_tokens`, neither stop tokens nor stop strings end a completion; max_tokens and
        a grammar after which nothing can follow do.
        """
        params = self._params
        armed = num_outputs >= params.min_tokens
        if armed and token in self._stop_tokens:
            # EOS is the usual end and no stop_reason, unless it is also given as a stop token.
            named = token in params.stop_token_ids
            text = self._read(token, armed=False) if params.include_stop_str_in_output else ""
            return text + self._flush(), Finish("stop", token) if named else _STOP
        text = self._read(token, armed=armed)
        stops = self._stop_strings
        if stops is not None and stops.match is not None:
            return text, Finish("stop", stops.match)
        finish = None if self._matcher is None else _follow_grammar(self._matcher, token)
        if finish is None:
            if num_outputs < params.max_tokens:
                return text, None
            finish = _LENGTH
        text += self._flush()
        # What was held back may complete a stop string, which then is the reason.
        if stops is not None and stops.match is not None:
            finish = Finish("stop", stops.match)
        return text, finish

    def _read(self, token: int, *, armed: bool) -> str:
        """Decode a token, or keep it where all are decoded at the end; see `StopStrings.add`."""
        if self._undecoded is not None:
            self._undecoded.append(token)
            return ""
        text = self._detokenizer.add(token)
        return text if self._stop_strings is None else self._stop_strings.add(text, armed=armed)

    def _flush(self) -> str:
        """Return what was held back; the completion has ended."""
        if self._undecoded is not None:
            return self._detokenizer.read(self._undecoded)
        text = self._detokenizer.flush()
        if self._stop_strings is None:
            return text
        return self._stop_strings.add(text) + self._stop_strings.flush()


def _follow_grammar(matcher: Matcher, token: int) -> Finish | None:
    """Give the grammar a token. Where nothing may follow it ends, even before `min_tokens`."""
    matcher.accept(token)
    if matcher.error is not None:
        return Finish("error", error=f"response_format: {matcher.error}", refused=True)
    return _STOP if matcher.is_complete else None
