"""The remote engine: running vLLM and quire servers, over their HTTP APIs."""
