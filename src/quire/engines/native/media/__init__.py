"""From decoded media to what a decoder takes in place of embeddings; the towers are transformers'."""
