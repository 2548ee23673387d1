"""Frameworks that people build on, each at work on `quire serve demo`: what `python -m tools.frameworks` runs."""
