"""What depends on a token's position: angles of rotary embeddings, and factors of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.program.arguments import Step
from quire.engines.native.cpu.tables.model import ModelTables
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.rope import (
    cosines_and_sines,
    inverse_frequencies,
    mrope_angles,
    query_factors,
)
from quire.engines.native.models.spec import DecoderSpec

FIRST_ANGLES = 1024
"""Positions whose angles are computed at the start; the others when a batch first needs them."""


class RotaryTables:
    """The cosines and sines of positions, which of them each row of a batch uses, and queries' factors.

    They grow with the longest context seen: those of all positions that a model knows would take
    hundreds of megabytes for some models.
    """

    def __init__(
        self, step: Step, model: ModelTables, spec: DecoderSpec, max_model_len: int
    ) -> None:
        self._step, self._spec, self._max_model_len = step, spec, max_model_len
        self._angles, self._query_factors = model.angles, model.query_factors
        self._factors = np.zeros(0, np.float32)
        self._tables: dict[
            tuple[RopeSpec, int], tuple[NDArray[np.float32], NDArray[np.float32]]
        ] = {}
        self._batch: tuple[NDArray[Any], ...] = ()  # what a batch brought
        self.has_batch = False
        """Whether the step is told of what an earlier batch brought."""
        self.length = 0
        """The number of positions that have angles."""
        self.extend(min(FIRST_ANGLES, max_model_len))
        self._reset()

    def extend(self, needed: int) -> None:
        """Have angles of at least `needed` positions. Twice as many as before, so that it is rare."""
        length = max(needed, min(self._max_model_len, 2 * self.length))
        for rope, head_dim in self._angles:
            frequencies, scale = inverse_frequencies(rope, head_dim, self._max_model_len)
            cosines, sines = cosines_and_sines(frequencies, scale, length)
            tables = np.ascontiguousarray(cosines), np.ascontiguousarray(sines)
            self._tables[rope, head_dim] = tables
        self._point_to(self._tables)
        if self._spec.query_scale is not None:
            self._factors = query_factors(self._spec.query_scale, length)
            self._query_factors.factors = address_of(self._factors)
        self.length = length

    def fill(self, batch: Batch) -> None:
        """Take over the positions in time, height and width of a batch for M-RoPE, if it has some.

        If a row's three positions differ, its angles are a mixture of three rows of the tables. Then
        the batch gets tables of its own, with one row of angles for each row: so the kernels need
        not know about M-RoPE.
        """
        self._reset()
        positions = batch.rope_positions
        if positions is None:
            return
        needed = int(positions.max(initial=0)) + 1
        if needed > self.length:
            self.extend(needed)
        if (positions == positions[0]).all():
            index = np.ascontiguousarray(positions[0], np.int32)
            self._batch = (index,)
        else:
            index = np.arange(batch.num_rows, dtype=np.int32)
            own = {
                key: tuple(mrope_angles(table, positions, key[0]) for table in tables)
                for key, tables in self._tables.items()
            }
            self._point_to(own)
            self._batch = (index, *(table for tables in own.values() for table in tables))
        self.has_batch = True
        self._step.rope_positions = address_of(index)

    def _reset(self) -> None:
        """Point to the model's own tables again, and to the positions in the batch."""
        self._point_to(self._tables)
        self._step.rope_positions = self._step.positions
        self._batch, self.has_batch = (), False

    def _point_to(self, tables: Mapping[tuple[RopeSpec, int], Sequence[NDArray[Any]]]) -> None:
        """Let the layers rotate by these cosines and sines."""
        for key, angles in self._angles.items():
            angles.cosines, angles.sines = map(address_of, tables[key])
