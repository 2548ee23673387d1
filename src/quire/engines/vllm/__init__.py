"""What `VllmEngine` needs to know of vLLM; with `chat/vllm_engine.py` the only code that imports it."""
