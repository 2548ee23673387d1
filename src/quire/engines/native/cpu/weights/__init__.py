"""What the engine computes with, as it is read and packed: decoders, adapters, score heads."""
