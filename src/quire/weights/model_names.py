"""What `model_name_or_path` may be beside a path, as its form tells."""

from __future__ import annotations

from quire.weights.gguf_names import split_quant

OLLAMA = "ollama:"
"""Before a name in Ollama's store."""


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a hub's names, `owner/name` or `owner/name:QUANT`."""
    repository, _ = split_quant(name)
    return (
        repository.count("/") == 1
        and ":" not in repository
        and not repository.startswith((".", "/", "~"))
        and not repository.endswith("/")
    )


def is_ollama_name(name: str) -> bool:
    """Whether this is a name in Ollama's store."""
    return name.lower().startswith(OLLAMA)
