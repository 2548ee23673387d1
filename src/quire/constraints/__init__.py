"""Constrained output (`response_format`): llguidance says which tokens may come next."""
