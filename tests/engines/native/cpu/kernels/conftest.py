"""What the tests of kernels share."""

from __future__ import annotations

import pytest

from tests.engines.native.cpu.kernels import arrays


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test gets the same random numbers, alone and among others."""
    arrays.begin_anew()
