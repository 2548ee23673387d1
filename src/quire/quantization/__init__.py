"""Weights as 4-bit and 8-bit integers: checkpoints that hold them, and rounding to them."""
