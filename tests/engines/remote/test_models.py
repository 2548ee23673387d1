"""Which model is asked for, of what the servers list."""

import pytest

from quire.engines.remote.discovery import ModelCard, RemoteModel, choose_model, read_cards
from quire.errors import ConfigError, ModelNotFoundError

BASE = ModelCard("base-7b", None, 4096)
LORA = ModelCard("pirate", "base-7b")


def test_the_first_listed_is_taken() -> None:
    assert choose_model(None, {"http://a": [BASE, LORA]}) == RemoteModel("base-7b", "base-7b", 4096)


def test_an_adapter_has_its_parents_context_and_base() -> None:
    model = choose_model("pirate", {"http://a": [BASE, LORA]})
    assert model == RemoteModel("pirate", "base-7b", 4096)
    assert [model.asked(name) for name in (None, "base", "butler")] == [
        "pirate",
        "base-7b",
        "butler",
    ]


def test_the_shortest_context_of_all_servers_holds() -> None:
    listings = {"http://a": [BASE], "http://b": [ModelCard("base-7b", None, 1024)], "http://c": []}
    assert choose_model(None, listings).context_length == 1024


def test_a_model_that_a_server_lacks_is_an_error() -> None:
    listings = {"http://a": [BASE], "http://b": [ModelCard("other")]}
    with pytest.raises(ConfigError, match=r"http://b has other, but not base-7b"):
        choose_model(None, listings)
    with pytest.raises(
        ModelNotFoundError, match=r"http://a does not serve .*did you mean 'base-7b'"
    ):
        choose_model("base-7", listings)


def test_servers_that_list_nothing_take_any_name() -> None:
    assert choose_model("any", {"http://a": []}).name == "any"
    with pytest.raises(ConfigError, match="remote_model"):
        choose_model(None, {"http://a": []})


def test_a_listing_of_a_strange_form_is_read_as_far_as_it_goes() -> None:
    listing = {
        "data": [
            3,
            {"id": 7},
            {"id": "x", "max_model_len": True, "parent": ""},
            {"id": "y", "max_model_len": 5},
        ]
    }
    assert read_cards(listing) == (ModelCard("x"), ModelCard("y", None, 5))
    for strange in (None, [], {"data": "x"}, "text"):
        assert read_cards(strange) == ()
