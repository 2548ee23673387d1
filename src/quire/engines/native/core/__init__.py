"""Continuous batching over a paged KV cache: the scheduler, the cache, sampling. It knows no device."""
