"""quire: chat inference for language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.errors import QuireError

if TYPE_CHECKING:
    from quire.chat import ChatDelta, ChatModel, Response

__version__ = "0.2.0"
__all__ = ["ChatDelta", "ChatModel", "QuireError", "Response", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import quire.errors` or the command line's help does not load an engine.
    if name in ("ChatDelta", "ChatModel", "Response"):
        from quire import chat

        return getattr(chat, name)
    raise AttributeError(f"module 'quire' has no attribute {name!r}")
