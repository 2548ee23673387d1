"""Moved to `quire.model_folder`."""

from quire.model_folder import eos_token_ids, find_model_folder, read_json

__all__ = ["eos_token_ids", "find_model_folder", "read_json"]
