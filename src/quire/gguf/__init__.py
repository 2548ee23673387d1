"""GGUF, the files of llama.cpp, Ollama and LM Studio: read, opened as models, and written."""
