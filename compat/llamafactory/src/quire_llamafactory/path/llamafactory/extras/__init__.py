"""The few helpers that scripts around a ChatModel import."""
