"""The server's life: loading, serving, restarts, draining."""
