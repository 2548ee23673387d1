"""All architectures, in the order in which people are told of them."""

from __future__ import annotations

from quire.gguf.architectures.classic import CLASSIC
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.architectures.gemma import GEMMA
from quire.gguf.architectures.glm import GLM, GLM4V
from quire.gguf.architectures.hybrid import BAMBA, HYBRID
from quire.gguf.architectures.llama import LLAMA
from quire.gguf.architectures.qwen import QWEN
from quire.gguf.architectures.sparse import SPARSE

ARCHITECTURES: dict[str, Architecture] = {
    one.name: one for family in (LLAMA, QWEN, GEMMA, GLM, SPARSE, HYBRID, CLASSIC) for one in family
}
"""By their names in GGUF files."""

FORMS: tuple[Architecture, ...] = (*ARCHITECTURES.values(), GLM4V, BAMBA)
"""All of them, with those whose files have the name of another one."""
