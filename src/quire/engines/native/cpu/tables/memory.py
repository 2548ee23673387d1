"""The memory that a layer's operations work in, besides its weights and the step's scratch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.memory.kv_cache import KvCache
from quire.engines.native.cpu.memory.states import StateCache
from quire.engines.native.cpu.program.arguments import Angles, QueryFactors, Step
from quire.engines.native.cpu.tables.ffn import ExpertScratch
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What all layers share: the step, what depends on positions, the KV cache, states, routing's memory."""

    step: Step
    angles: Angles
    local_angles: Angles
    query_factors: QueryFactors
    cache: KvCache
    states: StateCache
    expert_scratch: ExpertScratch | None
    slopes: NDArray[np.float32] | None
    """ALiBi's, one for each head."""
    arrays: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    """What was made of weights, and structs have the addresses of."""

    def keep(self, array: NDArray[Any]) -> int:
        """Keep an array alive; returns its address."""
        self.arrays.append(array)
        return address_of(array)

    def angles_of(self, spec: DecoderSpec, layer: int) -> Angles | None:
        """The angles of a layer's rotary embedding; None if it has none."""
        rope = spec.rope_of(layer)
        if rope is None:
            return None
        return self.local_angles if rope is spec.local_rope else self.angles

    def cache_addresses(self, layer: int) -> tuple[int, int]:
        """Where the keys and the values of a layer are."""
        return self.cache.addresses(layer)
