"""Kernels: compiled functions on addresses, each with a twin in `reference`, and what they are made of."""
