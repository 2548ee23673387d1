"""/v1/adapters: listed, loaded and dropped by an admin alone, while the server serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire.chat import ChatModel
from quire.demo import demo_adapter_path, demo_model_path
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.call import CALLER, Caller
from tests.server.serving import running, service_over

Receive = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, httpx.Client]]:
    """An admin's client, and one of somebody else, of a server that has no adapter yet."""
    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "native_kv_cache_memory": "64MiB",
    }
    settings = ServerArguments(served_model_name="demo")
    with ChatModel(arguments) as model:
        app = make_app(service_over(model.engine, settings))

        async def known(scope: Any, receive: Receive, send: Any) -> None:
            """What a guard of keys does: it says who asks."""
            if scope["type"] == "http":
                name = dict(scope["headers"]).get(b"x-name", b"").decode()
                scope[CALLER] = Caller(name, admin=name == "admin")
            await app(scope, receive, send)

        loop: asyncio.AbstractEventLoop = model._loop._loop
        with running(known, settings, loop) as url:  # type: ignore[arg-type]
            made = {
                name: httpx.Client(base_url=url, headers={"x-name": name}, timeout=60)
                for name in ("admin", "guest")
            }
            yield made
            for client in made.values():
                client.close()


def answer(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "input": "Hello! Who are you?", "temperature": 0}
    return client.post("/v1/responses", json=body)


def test_an_adapter_comes_and_goes(clients: dict[str, httpx.Client]) -> None:
    admin, guest = clients["admin"], clients["guest"]
    assert admin.get("/v1/adapters").json() == {"object": "list", "data": []}
    path = str(demo_adapter_path("pirate"))
    loaded = admin.post("/v1/adapters", json={"path": path, "name": "sea/pirate"}).json()
    assert (loaded["id"], loaded["path"]) == ("sea/pirate", path)
    assert admin.get("/v1/adapters").json()["data"] == [loaded]
    assert "sea/pirate" in [one["id"] for one in guest.get("/v1/models").json()["data"]]
    texts = [answer(guest, name).json()["output"][-1]["content"] for name in ("sea/pirate", "demo")]
    assert texts[0] != texts[1]
    taken = admin.post("/v1/adapters", json={"path": path, "name": "sea/pirate"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (400, "adapter_refused")
    dropped = admin.delete("/v1/adapters/sea/pirate").json()
    assert dropped == {"id": "sea/pirate", "object": "adapter", "deleted": True}
    assert answer(guest, "sea/pirate").status_code == 404
    assert admin.delete("/v1/adapters/sea/pirate").status_code == 404


def test_a_guest_may_do_nothing_with_adapters(clients: dict[str, httpx.Client]) -> None:
    guest = clients["guest"]
    path = str(demo_adapter_path("pirate"))
    for refused in (
        guest.get("/v1/adapters"),
        guest.post("/v1/adapters", json={"path": path}),
        guest.delete("/v1/adapters/adapter"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    assert clients["admin"].get("/v1/adapters").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"path": "/nowhere"}, "/nowhere"),
        ({"path": ""}, "path"),
        ({"path": "a\x00b"}, "path"),
        ({"path": "/nowhere", "name": "a\nb"}, "name"),
        ({"path": "/nowhere", "lora_name": "x"}, "'lora_name'"),
        ({}, "path is required"),
    ],
)
def test_what_is_no_adapter_is_refused(
    clients: dict[str, httpx.Client], body: Any, word: str
) -> None:
    refused = clients["admin"].post("/v1/adapters", json=body)
    assert refused.status_code == 400
    assert word in refused.json()["error"]["message"]


def test_a_broken_adapter_harms_nobody(clients: dict[str, httpx.Client], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    refused = clients["admin"].post("/v1/adapters", json={"path": str(tmp_path)})
    assert refused.status_code == 400
    assert answer(clients["guest"], "demo").status_code == 200
