"""Whether a completion ends with its newest token, and what it may show."""

from __future__ import annotations

from dataclasses import dataclass

from quire.engines.native.sequence import Sequence
from quire.outputs import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a completion ends; `finish_reason` None: it goes on."""

    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    error: str | None = None


_GOES_ON = Ending(None)
_LENGTH = Ending("length")
_STOP = Ending("stop")


def ending_after(sequence: Sequence, token: int) -> tuple[str, Ending]:
    """Read the token just appended. Returns the text that may be shown now, and the ending.

    A stop token has no text. At the end, what was held back is shown, up to a stop string.
    """
    params, text = sequence.request.params, sequence.text
    armed = sequence.num_outputs >= params.min_tokens
    if armed:
        ending = _stop_token(sequence, token)
        if ending is not None:
            return text.flush(), ending
    shown = text.add(token, armed=armed)
    if text.found is not None:
        return shown, Ending("stop", text.found)
    ending = _follow(sequence, token)
    if ending is _GOES_ON:
        return shown, ending
    shown += text.flush()
    return shown, ending if text.found is None else Ending("stop", text.found)


def _follow(sequence: Sequence, token: int) -> Ending:
    """Give the token to the grammar, if there is one; where nothing may follow, min_tokens yield."""
    matcher = sequence.matcher
    if matcher is not None:
        matcher.accept(token)
        if matcher.error is not None:
            return Ending("error", error=f"response_format: {matcher.error}")
        if matcher.is_complete:
            return _STOP
    return _GOES_ON if sequence.num_outputs < sequence.request.params.max_tokens else _LENGTH


def _stop_token(sequence: Sequence, token: int) -> Ending | None:
    params = sequence.request.params
    if token in params.stop_token_ids:
        return Ending("stop", token)
    if not params.ignore_eos and token in params.eos_token_ids:
        return _STOP
    return None


def usage_of(sequence: Sequence) -> Usage:
    """Count a completion's tokens."""
    cached = sequence.request.cached_tokens or 0
    return Usage(sequence.prompt_length, sequence.num_outputs, cached)
