"""ASGI middleware: what wraps every request of the server."""
