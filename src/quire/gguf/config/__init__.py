"""From a file's metadata and tensors to the `config.json` of its model."""
