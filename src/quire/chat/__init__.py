"""`ChatModel`, and the engines behind it."""

from quire.chat.base_engine import BaseEngine
from quire.chat.chat_model import ChatModel
from quire.outputs import ChatDelta, Response

__all__ = ["BaseEngine", "ChatDelta", "ChatModel", "Response"]
