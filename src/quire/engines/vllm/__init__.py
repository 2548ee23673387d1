"""The vLLM engine. Only this folder and `chat/vllm_engine.py` import vLLM."""
