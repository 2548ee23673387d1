"""Memory that compiled code works in: aligned arrays, huge pages, the KV cache."""
