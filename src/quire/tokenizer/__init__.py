"""The tokenizer: text to token ids and back, with literal text kept free of control tokens."""

from quire.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
