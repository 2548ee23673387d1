"""What tests of properties share."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck

EVERY_CHECK: Any = list(HealthCheck)
"""For `suppress_health_check`: examples may be large, slow or often discarded."""
