"""A model as files: its folder, its config, its tensors."""
