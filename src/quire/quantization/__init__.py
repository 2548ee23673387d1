"""Weights of 8 and 4 bits: checkpoints that hold them, and rounding to them."""
