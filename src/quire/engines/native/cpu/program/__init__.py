"""The step: kernels put together into phases that a team of threads shares, and its compilation."""
