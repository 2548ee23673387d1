"""Engines, one folder each, and the seam that they share."""
