"""The HTTP APIs: their request bodies and their answers."""
