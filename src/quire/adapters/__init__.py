"""LoRA adapters: their folders, checked, and which of them a model serves."""
