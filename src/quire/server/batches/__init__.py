"""Batch files of OpenAI's API: their requests answered as the server answers them."""

from quire.server.batches.answering import make_api_answerer

__all__ = ["make_api_answerer"]
