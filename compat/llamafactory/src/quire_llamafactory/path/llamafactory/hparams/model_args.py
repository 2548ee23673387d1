"""ModelArguments, as in quire.arguments."""

from quire.arguments import ModelArguments

__all__ = ["ModelArguments"]
