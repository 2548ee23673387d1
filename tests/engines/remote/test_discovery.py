"""Addresses are checked before use, and one model is chosen from what the servers list."""

import pytest

from quire.engines.remote.discovery import (
    ListedModel,
    RemoteModel,
    choose_model,
    read_addresses,
    read_models,
)
from quire.errors import ConfigError, ModelNotFoundError
from quire.options import ThinkingChoices

BASE = ListedModel("base-7b", None, 4096)
LORA = ListedModel("pirate", "base-7b")

# --- addresses ---


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("http://10.0.0.5:8000/", "http://10.0.0.5:8000"),
        ("https://host/v1/", "https://host"),
        ("https://host/team/v1", "https://host/team"),
        (" http://[::1]:80 ", "http://[::1]:80"),
    ],
)
def test_address_with_or_without_v1(given: str, read: str) -> None:
    assert read_addresses([given]) == (read,)


def test_duplicate_addresses_are_dropped() -> None:
    assert read_addresses(["http://a", "http://b", "http://a/v1"]) == ("http://a", "http://b")


@pytest.mark.parametrize(
    "address",
    [
        "host:8000",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://h/?a=1",
        "http://h/#x",
        "http://h\x00",
    ],
)
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="remote_base_url"):
        read_addresses([address])


def test_password_in_address_is_refused_and_not_repeated() -> None:
    for address in ("http://me:hunter2@host", "ftp://me:hunter2@host", "http://me:hunter2@h:x"):
        with pytest.raises(ConfigError) as caught:
            read_addresses([address])
        assert "hunter2" not in str(caught.value)


def test_missing_address_is_refused() -> None:
    for none in (None, []):
        with pytest.raises(ConfigError, match="remote_base_url"):
            read_addresses(none)


# --- models ---


def test_first_listed_model_is_chosen() -> None:
    assert choose_model(None, {"http://a": [BASE, LORA]}) == RemoteModel("base-7b", "base-7b", 4096)


def test_adapter_has_the_context_length_of_its_base() -> None:
    model = choose_model("pirate", {"http://a": [BASE, LORA]})
    assert model == RemoteModel("pirate", "base-7b", 4096)
    assert [model.name_for(name) for name in (None, "base", "butler")] == [
        "pirate",
        "base-7b",
        "butler",
    ]


def test_shortest_context_length_of_all_servers_is_used() -> None:
    listings = {
        "http://a": [BASE],
        "http://b": [ListedModel("base-7b", None, 1024)],
        "http://c": [],
    }
    assert choose_model(None, listings).context_length == 1024


def test_model_missing_on_one_server_is_refused() -> None:
    listings = {"http://a": [BASE], "http://b": [ListedModel("other")]}
    with pytest.raises(ConfigError, match=r"http://b has other, but not base-7b"):
        choose_model(None, listings)
    with pytest.raises(
        ModelNotFoundError, match=r"http://a does not serve .*did you mean 'base-7b'"
    ):
        choose_model("base-7", listings)


def test_server_that_lists_no_models_accepts_any_name() -> None:
    assert choose_model("any", {"http://a": []}).name == "any"
    with pytest.raises(ConfigError, match="remote_model"):
        choose_model(None, {"http://a": []})


def test_thinking_can_be_chosen_where_all_servers_say_the_same() -> None:
    told = {"switch": True, "default": None, "efforts": ["low", "high"]}
    (model,) = read_models({"data": [{"id": "base-7b", "thinking": told}]})
    assert model.thinking == ThinkingChoices(True, None, ("low", "high"))
    same = {"http://a": [model], "http://b": [model], "http://c": []}
    assert choose_model(None, same).thinking == model.thinking
    assert choose_model(None, {**same, "http://d": [BASE]}).thinking is None


@pytest.mark.parametrize(
    "told", [None, True, [], {}, {"switch": 1}, {"switch": True, "default": 0, "efforts": []}]
)
def test_malformed_choices_of_thinking_are_none(told: object) -> None:
    (model,) = read_models({"data": [{"id": "base-7b", "thinking": told}]})
    assert model == ListedModel("base-7b")


def test_malformed_entries_of_a_listing_are_skipped() -> None:
    listing = {
        "data": [
            3,
            {"id": 7},
            {"id": "x", "max_model_len": True, "parent": ""},
            {"id": "y", "max_model_len": 5},
        ]
    }
    assert read_models(listing) == (ListedModel("x"), ListedModel("y", None, 5))
    for strange in (None, [], {"data": "x"}, "text"):
        assert read_models(strange) == ()
