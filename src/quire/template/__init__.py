"""Templates: a conversation in, the model's prompt out."""
