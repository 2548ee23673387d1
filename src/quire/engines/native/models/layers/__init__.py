"""What a layer may consist of besides attention and a dense FFN: sizes, and the names of tensors."""
