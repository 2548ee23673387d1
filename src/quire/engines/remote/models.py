"""What servers list under `/v1/models`, and which of it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import ConfigError, ModelNotFoundError, nearest, sentence


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One listed model. `parent` is set for an adapter; `context_length` is in tokens."""

    name: str
    parent: str | None = None
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that requests without an adapter ask for, and the one below its adapter, if any."""

    name: str
    base: str
    context_length: int | None

    def asked(self, adapter: str | None) -> str:
        """The name to send for a request's adapter; "base" asks for the base model."""
        if adapter is None:
            return self.name
        return self.base if adapter == "base" else adapter


def read_cards(listing: Any) -> tuple[ModelCard, ...]:
    """Read the content of an answer to `GET /v1/models`; what has no name is left out."""
    entries = listing.get("data") if isinstance(listing, dict) else None
    cards = (_card(entry) for entry in (entries if isinstance(entries, list) else ()))
    return tuple(card for card in cards if card is not None)


def _card(entry: Any) -> ModelCard | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        return None
    parent, length = entry.get("parent"), entry.get("max_model_len")
    usable = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return ModelCard(
        entry["id"],
        parent if isinstance(parent, str) and parent else None,
        length if usable else None,
    )


def choose_model(wanted: str | None, listings: Mapping[str, Sequence[ModelCard]]) -> ServedModel:
    """Choose the model: `remote_model`, else the first that is listed; all servers must have it.

    Args:
        wanted: `remote_model`.
        listings: what each address lists; those that list nothing take any name.

    Raises:
        ModelNotFoundError: a server does not list the wanted model.
        ConfigError: nothing is wanted, and the servers list nothing or different models.
    """
    known = {address: cards for address, cards in listings.items() if cards}
    name = wanted or next((cards[0].name for cards in known.values()), None)
    if name is None:
        raise ConfigError("The servers list no models: give the model's name as remote_model.")
    base, lengths = name, list[int]()
    for address, cards in known.items():
        by_name = {card.name: card for card in cards}
        if name not in by_name:
            raise _not_listed(wanted, name, address, list(by_name))
        card = by_name[name]
        base = card.parent or name
        below = by_name.get(base, card)
        length = card.context_length or below.context_length
        lengths += [length] if length else []
    return ServedModel(name, base, min(lengths, default=None))


def _not_listed(
    wanted: str | None, name: str, address: str, names: Sequence[str]
) -> ConfigError | ModelNotFoundError:
    served = ", ".join(names[:10])
    if wanted is None:
        return ConfigError(
            f"The servers list different models: {address} has {served}, but not {name}. Give "
            "remote_model, or servers of one model."
        )
    return ModelNotFoundError(
        sentence(f"{address} does not serve remote_model {name!r}{nearest(name, names)}")
        + f" It lists {served}."
    )
