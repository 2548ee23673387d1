"""Fills what the operations of a step are told: of the model, its layers, scratch memory, angles."""
