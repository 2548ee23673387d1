"""Who is there, and what they serve: addresses checked, each server looked at once before the first
request, and the model chosen that all of them have.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from quire.engines.remote.client import PROBE_SECONDS, client_settings, httpx, reason_of
from quire.errors import ConfigError, EngineStartError, ModelNotFoundError, nearest, sentence

logger = logging.getLogger("quire")

# --- addresses -----------------------------------------------------------------------------------


def read_addresses(addresses: Iterable[str] | None) -> tuple[str, ...]:
    """Check `remote_base_url`; returns each address once, without `/v1` and without a slash at its end.

    Raises:
        ConfigError: none is given, or one is no address of a server.
    """
    found = tuple(dict.fromkeys(_read(address.strip()) for address in addresses or ()))
    if not found:
        raise ConfigError(
            "infer_backend remote needs remote_base_url: the address of a running vLLM or quire "
            "server, such as http://127.0.0.1:8000, or a list of them."
        )
    return found


def _read(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"remote_base_url: {_shown(address)} is no address: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(
            f"remote_base_url: {_shown(address)} must begin with http:// or https:// and name a "
            "host, such as http://127.0.0.1:8000."
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "remote_base_url holds a user's name or a password; give a key with remote_api_key "
            "or the environment's QUIRE_REMOTE_API_KEY instead."
        )
    if parts.query or parts.fragment or not (address.isascii() and address.isprintable()):
        raise ConfigError(
            f"remote_base_url: {_shown(address)} must be plain: no ?, no # and no special characters."
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _shown(address: str) -> str:
    """The address for an error's text, without what stands before an @."""
    return repr(address.rpartition("@")[2])


# --- models --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One listed model. `parent` is set for an adapter; `context_length` is in tokens."""

    name: str
    parent: str | None = None
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class RemoteModel:
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


def choose_model(wanted: str | None, listings: Mapping[str, Sequence[ModelCard]]) -> RemoteModel:
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
    return RemoteModel(name, base, min(lengths, default=None))


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


# --- the first look ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerLook:
    """What a look at one server gave; `problem` is None where it can be asked."""

    address: str
    cards: tuple[ModelCard, ...] = ()
    problem: str | None = None


def greet(
    addresses: Sequence[str], key: str | None, wanted: str | None
) -> tuple[RemoteModel, frozenset[str]]:
    """Look at each server once, all at the same time.

    Returns the model to ask for, and the addresses that could not be reached: a warning names them.

    Raises:
        EngineStartError: no server can be reached, or one refuses the key.
        ModelNotFoundError, ConfigError: see `choose_model`.
    """
    with ThreadPoolExecutor(min(len(addresses), 16)) as threads:
        found = list(threads.map(lambda address: _look(address, key), addresses))
    lost = [one for one in found if one.problem is not None]
    told = "; ".join(f"{one.address} ({one.problem})" for one in lost)
    if len(lost) == len(found):
        raise EngineStartError(
            f"No server can be reached: {told}. Start it, or correct remote_base_url."
        )
    if lost:
        logger.warning("Not reached yet, and asked again every few seconds: %s.", told)
    model = choose_model(wanted, {one.address: one.cards for one in found})
    return model, frozenset(one.address for one in lost)


def _look(address: str, key: str | None) -> ServerLook:
    try:
        with httpx.Client(
            timeout=PROBE_SECONDS, verify=ssl.create_default_context(), **client_settings(key)
        ) as client:
            health = client.get(f"{address}/health")
            if health.status_code >= 500:
                return ServerLook(address, problem=f"/health answers {health.status_code}")
            return ServerLook(address, _cards(address, client.get(f"{address}/v1/models")))
    except httpx.HTTPError as error:
        return ServerLook(address, problem=reason_of(error))


def _cards(address: str, response: httpx.Response) -> tuple[ModelCard, ...]:
    if response.status_code in (401, 403):
        raise EngineStartError(
            f"{address} refuses the key ({response.status_code}). Check remote_api_key (or "
            "QUIRE_REMOTE_API_KEY)."
        )
    if response.status_code != 200:
        return ()
    try:
        return read_cards(response.json())
    except ValueError:
        return ()
