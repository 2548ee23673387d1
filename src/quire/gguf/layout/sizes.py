"""What the tensors of layers are as large as, by a model's config; and a layer's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from quire.gguf.architectures.declaration import Architecture
from quire.gguf.config.biases import BIASES
from quire.gguf.layout.tensors import FolderTensor, whole, zeros


class Sizes:
    """What the tensors of a layer are as large as, and which of them there are."""

    def __init__(
        self, architecture: Architecture, config: Mapping[str, Any], stored_biases: Set[str]
    ) -> None:
        self.architecture, self.config = architecture, config
        self.stored_biases = stored_biases
        """The maps of which some layer of the file has a bias."""
        self.hidden: int = config["hidden_size"]
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.biases = {
            role
            for key, roles in BIASES.get(config["model_type"], {}).items()
            if not key or config.get(key)
            for role in roles
        }
        """The maps that have a bias in the folder."""

    def kind(self, layer: int) -> str:
        """What a layer has: `full_attention`, or what its config calls it."""
        types = self.config.get("layer_types")
        return types[layer] if types else "full_attention"

    def head_dim(self, layer: int) -> int:
        """The size of a head of attention."""
        return self._of_full_layers("global_head_dim", "head_dim", layer)

    @property
    def rotated(self) -> int:
        """How many dimensions of a head are rotated."""
        return int(
            self.config["head_dim"] * self.config["rope_parameters"]["partial_rotary_factor"]
        )

    def kv_heads(self, layer: int) -> int:
        """How many heads of keys there are."""
        return self._of_full_layers("num_global_key_value_heads", "num_key_value_heads", layer)

    def _of_full_layers(self, own: str, usual: str, layer: int) -> int:
        """A size that may be another one in layers with full attention (Gemma 4)."""
        is_own = self.config.get(own) is not None and self.kind(layer) == "full_attention"
        return self.config[own if is_own else usual]

    def ffn(self, layer: int) -> int:
        """The width of a dense FFN."""
        key = (
            "intermediate_size_mlp"
            if "intermediate_size_mlp" in self.config
            else "intermediate_size"
        )
        size: int | list[int] = self.config[key]
        if isinstance(size, list):
            return size[layer]
        doubled = self.config.get("use_double_wide_mlp") and self.shares_keys(layer)
        return 2 * size if doubled else size

    def shares_keys(self, layer: int) -> bool:
        """Whether a layer attends to the keys and values of an earlier one."""
        return layer >= self.layers - self.config.get("num_kv_shared_layers", 0)

    def keys_are_values(self, layer: int) -> bool:
        """Whether a layer has no map of values."""
        has_both = self.config.get("attention_k_eq_v", False)
        return has_both and self.kind(layer) == "full_attention"


@dataclass(frozen=True, slots=True)
class Block:
    """A layer of a model, and how the names of its tensors begin."""

    sizes: Sizes
    layer: int

    @property
    def here(self) -> str:
        """In a folder."""
        return f"model.layers.{self.layer}."

    @property
    def there(self) -> str:
        """In a file."""
        return f"blk.{self.layer}."

    def whole(self, name: str, stored: str, shape: tuple[int, ...]) -> FolderTensor:
        """A tensor that a file has as a folder has it."""
        return whole(self.here + name, self.there + stored, shape)

    def linear(self, name: str, stored: str, rows: int, columns: int) -> Iterator[FolderTensor]:
        """A linear map that has a tensor of its own in both, and its bias."""
        yield self.whole(f"{name}.weight", f"{stored}.weight", (rows, columns))
        if stored in self.sizes.biases:
            bias = self.whole(f"{name}.bias", f"{stored}.bias", (rows,))
            yield bias if stored in self.sizes.stored_biases else zeros(bias)
