"""The server's lifecycle: loading, serving, restarts, draining."""
