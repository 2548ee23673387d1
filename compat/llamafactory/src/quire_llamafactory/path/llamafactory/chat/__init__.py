"""ChatModel and the engines, as in quire.chat."""

from quire.chat import BaseEngine, ChatDelta, ChatModel, Response

__all__ = ["BaseEngine", "ChatDelta", "ChatModel", "Response"]
