"""Batches: a data set in, answers out, with nothing lost on the way."""
