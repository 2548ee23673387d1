"""Weights as small whole numbers: checkpoints that hold them, and rounding to them."""
