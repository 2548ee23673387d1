"""Discovery: addresses are checked, each server is probed once, and the model to ask for is chosen."""

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
from quire.options import ThinkingChoices

logger = logging.getLogger("quire")

# --- addresses -----------------------------------------------------------------------------------


def read_addresses(addresses: Iterable[str] | None) -> tuple[str, ...]:
    """Check `remote_base_url`; return each address once, without `/v1` or a slash at its end.

    Raises:
        ConfigError: no address is given, or one is no address of a server.
    """
    checked = tuple(dict.fromkeys(_read(address.strip()) for address in addresses or ()))
    if not checked:
        raise ConfigError(
            "infer_backend remote needs remote_base_url: the address of a running vLLM or quire "
            "server, such as http://127.0.0.1:8000, or a list of them."
        )
    return checked


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
    """The address for an error's text, without the user name and password before an @."""
    return repr(address.rpartition("@")[2])


# --- models --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model that a server lists."""

    name: str
    parent: str | None = None
    """The base model, of a LoRA adapter."""
    context_length: int | None = None
    """In tokens; None where the server does not say."""
    is_quire: bool = False
    """Whether it is quire that serves it."""
    thinking: ThinkingChoices | None = None
    """What a request can choose of the thought, where the server says so, as quire does."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """The model to ask the servers for."""

    name: str
    """What requests without an adapter ask for; it may be an adapter itself."""
    base: str
    """The base model; the same as `name` where that is no adapter."""
    context_length: int | None
    """In tokens, the smallest of all servers; None where none of them says."""
    is_quire: bool = False
    """Whether all servers are quire's own."""
    thinking: ThinkingChoices | None = None
    """What a request can choose of the thought, where all servers say the same."""

    def name_for(self, adapter: str | None) -> str:
        """The `model` to send for a request's adapter; "base" asks for the base model."""
        if adapter is None:
            return self.name
        return self.base if adapter == "base" else adapter


def read_models(listing: Any) -> tuple[ListedModel, ...]:
    """Read the body of `GET /v1/models`. Entries without a name are left out."""
    entries = listing.get("data") if isinstance(listing, dict) else None
    models = (_listed_model(entry) for entry in (entries if isinstance(entries, list) else ()))
    return tuple(model for model in models if model is not None)


def _listed_model(entry: Any) -> ListedModel | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        return None
    parent, length = entry.get("parent"), entry.get("max_model_len")
    usable = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return ListedModel(
        entry["id"],
        parent if isinstance(parent, str) and parent else None,
        length if usable else None,
        entry.get("owned_by") == "quire",
        _thinking(entry.get("thinking")),
    )


def _thinking(value: Any) -> ThinkingChoices | None:
    if not isinstance(value, dict):
        return None
    switch, default, efforts = (value.get(name) for name in ("switch", "default", "efforts"))
    if not isinstance(switch, bool) or not isinstance(efforts, list):
        return None
    if default is not None and not isinstance(default, bool):
        return None
    return ThinkingChoices(switch, default, tuple(one for one in efforts if isinstance(one, str)))


def choose_model(wanted: str | None, listings: Mapping[str, Sequence[ListedModel]]) -> RemoteModel:
    """Choose the model: `remote_model`, else the first that is listed. All servers must have it.

    Args:
        wanted: `remote_model`.
        listings: the models that each address lists; one that lists none is taken to serve any.

    Raises:
        ModelNotFoundError: a server does not list `wanted`.
        ConfigError: `wanted` is None, and the servers list no models, or different ones.
    """
    known = {address: models for address, models in listings.items() if models}
    name = wanted or next((models[0].name for models in known.values()), None)
    if name is None:
        raise ConfigError("The servers list no models: give the model's name as remote_model.")
    base, lengths, is_quire = name, list[int](), bool(known)
    thinking: set[ThinkingChoices | None] = set()
    for address, models in known.items():
        by_name = {model.name: model for model in models}
        if name not in by_name:
            raise _not_listed(wanted, name, address, list(by_name))
        model = by_name[name]
        base = model.parent or name
        is_quire = is_quire and model.is_quire
        thinking.add(model.thinking)
        # vLLM lists the context length of the base model only, not that of its adapters.
        length = model.context_length or by_name.get(base, model).context_length
        lengths += [length] if length else []
    choices = thinking.pop() if len(thinking) == 1 else None
    return RemoteModel(name, base, min(lengths, default=None), is_quire, choices)


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


# --- the first probe -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """The result of one server's first probe."""

    address: str
    models: tuple[ListedModel, ...] = ()
    problem: str | None = None
    """Why the server could not be reached; None if it was."""


def probe_servers(
    addresses: Sequence[str], key: str | None, wanted: str | None
) -> tuple[RemoteModel, frozenset[str]]:
    """Probe all servers once, at the same time.

    Returns:
        The model to ask for, and the addresses that could not be reached, which are logged.

    Raises:
        EngineStartError: no server can be reached, or one refuses the key.
        ModelNotFoundError, ConfigError: see `choose_model`.
    """
    with ThreadPoolExecutor(min(len(addresses), 16)) as threads:
        probes = list(threads.map(lambda address: _probe(address, key), addresses))
    failed = [probe for probe in probes if probe.problem is not None]
    reasons = "; ".join(f"{probe.address} ({probe.problem})" for probe in failed)
    if len(failed) == len(probes):
        raise EngineStartError(
            f"No server can be reached: {reasons}. Start it, or correct remote_base_url."
        )
    if failed:
        logger.warning("Not reached yet, and probed again every few seconds: %s.", reasons)
    model = choose_model(wanted, {probe.address: probe.models for probe in probes})
    return model, frozenset(probe.address for probe in failed)


def _probe(address: str, key: str | None) -> ServerProbe:
    try:
        with httpx.Client(
            timeout=PROBE_SECONDS, verify=ssl.create_default_context(), **client_settings(key)
        ) as client:
            health = client.get(f"{address}/health")
            if health.status_code >= 500:
                return ServerProbe(address, problem=f"/health answers {health.status_code}")
            return ServerProbe(address, _models(address, client.get(f"{address}/v1/models")))
    except httpx.HTTPError as error:
        return ServerProbe(address, problem=reason_of(error))


def _models(address: str, response: httpx.Response) -> tuple[ListedModel, ...]:
    if response.status_code in (401, 403):
        raise EngineStartError(
            f"{address} refuses the key ({response.status_code}). Check remote_api_key (or "
            "QUIRE_REMOTE_API_KEY)."
        )
    # A server without this route may serve the chat API all the same.
    if response.status_code != 200:
        return ()
    try:
        return read_models(response.json())
    except ValueError:
        return ()
