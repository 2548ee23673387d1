"""DataArguments, as in quire.arguments."""

from quire.arguments import DataArguments

__all__ = ["DataArguments"]
