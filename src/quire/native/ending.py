"""Whether a completion ends with its newest token, and what it may show."""

from __future__ import annotations

from dataclasses import dataclass

from quire.native.sequence import Sequence
from quire.outputs import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a completion ends; `finish_reason` None: it goes on."""

    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    error: str | None = None


_GOES_ON = Ending(None)
_LENGTH = Ending("length")


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
    if sequence.num_outputs < params.max_tokens:
        return shown, _GOES_ON
    shown += text.flush()
    return shown, _LENGTH if text.found is None else Ending("stop", text.found)


def _stop_token(sequence: Sequence, token: int) -> Ending | None:
    params = sequence.request.params
    if token in params.stop_token_ids:
        return Ending("stop", token)
    if not params.ignore_eos and token in params.eos_token_ids:
        return Ending("stop")
    return None


def usage_of(sequence: Sequence) -> Usage:
    """Count a completion's tokens."""
    cached = sequence.request.cached_tokens or 0
    return Usage(sequence.prompt_length, sequence.num_outputs, cached)
