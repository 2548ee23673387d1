"""Running vLLM and quire servers as an engine: their addresses, their APIs, their health."""
