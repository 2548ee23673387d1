"""The tensors of a model: their names and shapes in a folder, and where a file may have them."""
