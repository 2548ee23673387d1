"""ASGI middleware around every request of the server."""
