"""Keys: who comes in, as whom, and that no route is forgotten."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.routing import APIRoute

from quire.errors import ConfigError
from quire.server.arguments import ServerArguments, is_loopback, read_server_arguments
from quire.server.middleware.keys import OPEN_PATHS, KeyRing
from quire.tokenizer import Tokenizer
from tests.server.guarded import guarded

KEY, OTHER, ADMIN = "user-key-one", "user-key-two", "admin-key-1"


async def test_every_route_needs_a_key(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, api_key=KEY) as server:
        asked = 0
        for route in server.app.routes:
            path = getattr(route, "path", "")
            methods = getattr(route, "methods", None) or {"GET"}
            for method in methods:
                answer = await server.client.request(method, path.replace("{name:path}", "x"))
                if path in OPEN_PATHS or path.startswith("/page/"):
                    assert answer.status_code in (200, 404)
                else:
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    asked += 1
        paths = {getattr(route, "path", "") for route in server.app.routes}
        assert {"/v1/models", "/v1/chat/completions", "/metrics", "/openapi.json"} <= paths
        assert (
            asked >= len([route for route in server.app.routes if isinstance(route, APIRoute)]) - 2
        )
        unknown = await server.client.get("/no/such/path")
        assert unknown.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {OTHER} "}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer " + "x" * 5000}, 401),
        ({}, 401),
    ],
)
async def test_a_key_is_taken_from_either_header(
    tokenizer: Tokenizer, headers: dict[str, str], status: int
) -> None:
    async with guarded(tokenizer, api_key=f"{KEY}, {OTHER}") as server:
        answer = await server.chat(headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert KEY not in answer.text
        assert KEY.encode() not in server.written.getvalue()


def test_files_of_keys_have_names_hashes_and_comments(tmp_path: Path) -> None:
    hashed = hashlib.sha256(OTHER.encode()).hexdigest()
    users, admins = tmp_path / "keys", tmp_path / "admins"
    users.write_text(f"# who may ask\n{KEY}  web shop\n\nsha256:{hashed} nightly\n")
    admins.write_text(f"{ADMIN}\n")
    ring = KeyRing.of(ServerArguments(api_key_file=str(users), admin_key_file=str(admins)))
    assert ring is not None
    found = [ring.find(key.encode()) for key in (KEY, OTHER, ADMIN)]
    assert [caller and caller.name for caller in found] == ["web shop", "nightly", "key-3"]
    assert [caller and caller.admin for caller in found] == [False, False, True]
    salts = {caller.salt for caller in found if caller}
    assert len(salts) == 3
    assert all(len(salt) == 32 for salt in salts)
    assert ring.find(hashed.encode()) is None
    assert ring.find(f"sha256:{hashed}".encode()) is None
    assert KEY not in repr(vars(ring))


@pytest.mark.parametrize("content", ["short\n", "# nothing\n", "spä-te-keys-here\n"])
def test_a_file_that_is_no_good_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match="key"):
        KeyRing.of(ServerArguments(api_key_file=str(file)))
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing.of(ServerArguments(api_key_file=str(tmp_path / "none")))


def test_no_other_address_without_a_key() -> None:
    with pytest.raises(ConfigError, match="allow_no_key"):
        ServerArguments(host="0.0.0.0")
    with pytest.raises(ConfigError, match="allow_no_key"):
        read_server_arguments({}, {"API_HOST": "::"})
    assert ServerArguments(host="0.0.0.0", allow_no_key=True).host == "0.0.0.0"
    assert ServerArguments(host="0.0.0.0", api_key=cast("Any", KEY)).has_keys
    arguments, _ = read_server_arguments({}, {"API_HOST": "0.0.0.0", "API_KEY": f"{KEY},{OTHER}"})
    ring = KeyRing.of(arguments)
    assert ring is not None
    assert len(ring) == 2
    assert KEY not in repr(arguments)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_what_is_the_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_quire_variables_go_before_others() -> None:
    environment = {"API_PORT": "80", "QUIRE_PORT": "81", "QUIRE_DRAIN_TIMEOUT": "5"}
    arguments, _ = read_server_arguments({}, environment)
    assert (arguments.port, arguments.drain_timeout) == (81, 5.0)
    environment |= {"QUIRE_PORT": "tcp://10.0.0.1:8000"}  # Kubernetes's, for a service named quire
    assert read_server_arguments({}, environment)[0].port == 80
    with pytest.raises(ConfigError, match="drain_timeout"):
        read_server_arguments({"drain_timeot": 3}, {})


async def test_a_refusal_has_the_form_of_its_api(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, api_key=KEY) as server:
        answer = await server.client.post("/v1/messages", json={})
        assert answer.status_code == 401
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "authentication_error"
        headers = {"x-api-key": KEY, "content-type": "text/plain"}
        answer = await server.client.post("/v1/messages", content="{}", headers=headers)
        assert answer.status_code == 415
        assert answer.json()["type"] == "error"


async def test_adapters_need_an_admins_key(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, api_key=KEY, admin_key=ADMIN) as server:
        for key, status in ((KEY, 403), (ADMIN, 200)):
            answer = await server.client.get("/v1/adapters", headers={"x-api-key": key})
            assert answer.status_code == status
    async with guarded(tokenizer) as server:  # with no keys at all nobody is an admin
        assert (await server.client.get("/v1/adapters")).status_code == 403
