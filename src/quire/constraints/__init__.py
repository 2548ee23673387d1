"""Constrained output: llguidance says which tokens may come next, and the sampler obeys."""
