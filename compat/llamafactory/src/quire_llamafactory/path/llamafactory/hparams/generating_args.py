"""GeneratingArguments, as in quire.arguments."""

from quire.arguments import GeneratingArguments

__all__ = ["GeneratingArguments"]
