"""Where a user's own folders are."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from quire.machine.folders import in_home, user_folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data", "/data/quire"),
        ("~/own", "/home/me/own/quire"),
        ("", "/home/me/.local/share/quire"),
        (None, "/home/me/.local/share/quire"),
    ],
)
def test_a_variable_comes_before_the_home(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_DATA_HOME", value)
    assert user_folder("XDG_DATA_HOME", "~/.local/share") == Path(expected)


def test_a_user_without_a_home_has_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert in_home("/named") == Path("/named")
    with pytest.raises(OSError, match="no home folder"):
        user_folder("QUIRE_NO_SUCH", "~/.cache")
