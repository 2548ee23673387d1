"""FinetuningArguments, as in quire.arguments."""

from quire.arguments import FinetuningArguments

__all__ = ["FinetuningArguments"]
