"""The version of what is installed: quire's, since LLaMA-Factory itself is not there."""

from quire import __version__ as VERSION

__all__ = ["VERSION"]
