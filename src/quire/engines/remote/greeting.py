"""The first look at the servers, before there is an event loop: who is there, and what they serve."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from quire.engines.remote.client import PROBE_SECONDS, client_settings, reason_of
from quire.engines.remote.library import httpx
from quire.engines.remote.models import ModelCard, ServedModel, choose_model, read_cards
from quire.errors import EngineStartError

logger = logging.getLogger("quire")


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at one server gave; `problem` is None where it can be asked."""

    address: str
    cards: tuple[ModelCard, ...] = ()
    problem: str | None = None


def greet(
    addresses: Sequence[str], key: str | None, wanted: str | None
) -> tuple[ServedModel, frozenset[str]]:
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


def _look(address: str, key: str | None) -> Found:
    try:
        with httpx.Client(
            timeout=PROBE_SECONDS, verify=ssl.create_default_context(), **client_settings(key)
        ) as client:
            health = client.get(f"{address}/health")
            if health.status_code >= 500:
                return Found(address, problem=f"/health answers {health.status_code}")
            return Found(address, _cards(address, client.get(f"{address}/v1/models")))
    except httpx.HTTPError as error:
        return Found(address, problem=reason_of(error))


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
