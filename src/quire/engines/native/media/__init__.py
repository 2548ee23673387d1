"""From decoded media to features that replace token embeddings. The towers are transformers' own."""
