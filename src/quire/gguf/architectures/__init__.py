"""The architectures of GGUF files that the native engine runs: a module for each kind of model."""
