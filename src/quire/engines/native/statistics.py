"""Figures of the engine at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Gauges of now, and counters since the engine was made."""

    running: int  # sequences that hold blocks
    waiting: int  # sequences that wait for them
    total_blocks: int
    free_blocks: int  # that can be taken now, cached ones that nobody uses among them
    cached_blocks: int  # kept for later hits, used by nobody now
    steps: int
    failed_steps: int
    preemptions: int
    prompt_tokens: int  # of admitted requests
    prefix_hit_tokens: int  # of those, found in the prefix cache
    generated_tokens: int
    drafted_tokens: int  # computed on the chance that they are the next ones
    accepted_tokens: int  # of those, that were
