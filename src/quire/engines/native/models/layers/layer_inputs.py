"""What layers get of each token besides the residual stream: per-layer embeddings (Gemma 3n, Gemma 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.engines.native.models.layers.ffn import Activation
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class LayerInputsSpec:
    """A vector of each layer for each token, from a table of embeddings and a linear map of the token's own.

    After its FFN, a layer multiplies it with a gate of the residual stream; a map of the product, with a
    norm, is added to that.
    """

    vocab_size: int
    """Tokens of the table. Those after them have the vectors of the first one."""
    size: int
    """Of one layer's vector."""
    activation: Activation = "gelu_tanh"
    """Of the gate."""

    @property
    def embedding_scale(self) -> float:
        """The table's rows are multiplied by it."""
        return self.size**0.5

    @property
    def sum_scale(self) -> float:
        """The sum of a row of the table and of the map's output is multiplied by it."""
        return 0.5**0.5

    def global_tensors(self, names: WeightNames, layers: int) -> Iterator[TensorSpec]:
        """`layer_embeddings`: a row for each token, of all layers' vectors."""
        shape = (self.vocab_size, layers * self.size)
        yield TensorSpec("layer_embeddings", names.layer_embeddings, shape)

    def first_layer_tensors(
        self, names: WeightNames, hidden: int, layers: int
    ) -> Iterator[TensorSpec]:
        """The map that makes the inputs of all layers, and its norm. The first layer has them, so that
        that map, too, is a linear map of a layer.
        """
        shape = (layers * self.size, hidden)
        yield TensorSpec("layer_inputs", f"{names.layer_inputs}.weight", shape)
        yield TensorSpec("layer_inputs_norm", names.layer_inputs_norm, (self.size,))

    def tensors(self, names: WeightNames, prefix: str, hidden: int) -> Iterator[TensorSpec]:
        """`layer_gate`, and `layer_out` with its norm, of one layer."""
        gate, out = f"{prefix}{names.layer_gate}.weight", f"{prefix}{names.layer_out}.weight"
        yield TensorSpec("layer_gate", gate, (self.size, hidden))
        yield TensorSpec("layer_out", out, (hidden, self.size))
        yield TensorSpec("post_layer_norm", f"{prefix}{names.post_layer_norm}.weight", (hidden,))
