"""Folders to GGUF files and back, with adapters merged on the way."""
