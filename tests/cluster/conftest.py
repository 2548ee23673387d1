"""The one cluster of all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import RayNodes, two_nodes


@pytest.fixture(scope="package")
def started_nodes() -> Iterator[RayNodes]:
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(started_nodes: RayNodes) -> RayNodes:
    """A cluster of two nodes, both of them there."""
    started_nodes.add_other()
    return started_nodes
