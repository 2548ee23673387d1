"""What answers in a chat: the model and its engine, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire import __version__
from quire.characters import harmless

if TYPE_CHECKING:
    from quire.chat import ChatModel


@dataclass(frozen=True)
class ChatInfo:
    """A model by the name that it was asked for by."""

    name: str
    model: ChatModel

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """The sampling settings that the model itself brings."""
        engine = self.model.engine
        return engine.tokens.preparation.generation_config if engine.has_tokens else {}

    def line(self) -> str:
        """The model in a few words."""
        return f"{harmless(self.name)} ({self.model.engine.name})"

    def rows(self) -> dict[str, str]:
        """What there is to say, each by its name."""
        info, args = self.model.engine.info, self.model.engine.model_args
        rows = {
            "quire": __version__,
            "model": harmless(self.name),
            "folder": harmless(args.model_name_or_path),
            "adapters": ", ".join(map(harmless, args.adapter_name_or_path or ())),
            "engine": f"{info.name}, {info.context_length:,} tokens of context",
            "memory": "",
            "takes": ", ".join(["text", *sorted(info.media)]),
        }
        if info.memory is not None:
            weights, cache = info.memory.weights / 2**20, info.memory.kv_cache / 2**20
            rows["memory"] = f"{weights:,.0f} MiB of weights, {cache:,.0f} MiB of KV cache"
        return {name: text for name, text in rows.items() if text}
