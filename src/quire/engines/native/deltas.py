"""What a sequence gained, as the delta that its reader gets."""

from __future__ import annotations

from quire.engines.native.ending import Ending, usage_of
from quire.engines.native.sequence import Sequence
from quire.outputs import Delta, TokenLogprob


def token_delta(
    sequence: Sequence, token: int, text: str, logprob: TokenLogprob | None, ending: Ending
) -> Delta:
    """The newest token, and the text that it lets be shown."""
    return Delta(
        sequence.index,
        text,
        (token,),
        None if logprob is None else (logprob,),
        ending.finish_reason,
        ending.stop_reason,
        None if ending.finish_reason is None else usage_of(sequence),
        prompt_logprobs_of(sequence) if sequence.num_outputs == 1 else None,
        ending.error,
    )


def whole_delta(sequence: Sequence, ending: Ending) -> Delta:
    """A completion that has ended, and of which nothing was shown."""
    held = sequence.held or []
    logprobs = tuple(logprob for _, logprob in held if logprob is not None)
    return Delta(
        sequence.index,
        "".join(text for text, _ in held),
        tuple(sequence.output_ids.tolist()),
        logprobs or None,
        ending.finish_reason,
        ending.stop_reason,
        usage_of(sequence),
        prompt_logprobs_of(sequence),
        ending.error,
    )


def prompt_logprobs_of(sequence: Sequence) -> tuple[TokenLogprob | None, ...] | None:
    """Those of the prompt, where they are wanted; the first completion alone has them."""
    logprobs = sequence.request.prompt_logprobs
    if logprobs is None or sequence.index:
        return None
    return tuple(logprobs.entries)
