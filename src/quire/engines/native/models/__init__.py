"""Decoders as data: one file a model_type turns a Hugging Face config into a `DecoderSpec`."""
