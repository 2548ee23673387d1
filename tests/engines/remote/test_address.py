"""Addresses are checked where they are given."""

import pytest

from quire.engines.remote.discovery import read_addresses
from quire.errors import ConfigError


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
def test_an_address_is_taken_with_and_without_v1(given: str, read: str) -> None:
    assert read_addresses([given]) == (read,)


def test_the_same_server_counts_once() -> None:
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
def test_what_is_no_plain_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(ConfigError, match="remote_base_url"):
        read_addresses([address])


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    for address in ("http://me:hunter2@host", "ftp://me:hunter2@host", "http://me:hunter2@h:x"):
        with pytest.raises(ConfigError) as caught:
            read_addresses([address])
        assert "hunter2" not in str(caught.value)


def test_no_address_at_all_is_refused() -> None:
    for none in (None, []):
        with pytest.raises(ConfigError, match="remote_base_url"):
            read_addresses(none)
