"""The memory that a layer's operations work in, besides its weights and the step's scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from quire.engines.native.cpu.memory.kv_cache import KvCache
from quire.engines.native.cpu.memory.states import StateCache
from quire.engines.native.cpu.program.arguments import Angles, QueryFactors, Step
from quire.engines.native.cpu.tables.ffn import ExpertScratch
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.rope import RopeSpec


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What all layers share: the step, what depends on positions, the KV cache, states, routing's memory."""

    step: Step
    angles: Mapping[tuple[RopeSpec, int], Angles]
    """By rotary embedding and the size of the heads that it rotates."""
    query_factors: QueryFactors
    cache: KvCache
    states: StateCache
    expert_scratch: ExpertScratch | None
    arrays: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    """What was made of weights, and structs have the addresses of."""

    def keep(self, array: NDArray[Any]) -> int:
        """Keep an array alive; returns its address."""
        self.arrays.append(array)
        return address_of(array)

    def angles_of(self, mixer: TokenMixer) -> tuple[Angles | None, bool]:
        """The angles of a layer's rotary embedding, None for none; whether rotated pairs are neighbours."""
        rope = mixer.rope
        return (
            (None, False) if rope is None else (self.angles[rope, mixer.rope_dim], rope.interleaved)
        )

    def cache_addresses(self, layer: int) -> tuple[int, int]:
        """Where the keys and the values of a layer are."""
        return self.cache.addresses(layer)
