"""What all engines share."""

from quire.chat import BaseEngine, Response

__all__ = ["BaseEngine", "Response"]
