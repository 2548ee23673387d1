"""Firefox for tests, driven by WebDriver BiDi, which every Firefox speaks itself (https://w3c.github.io/webdriver-bidi).

Playwright needs a Firefox of its own build; this drives the one that people have.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.server.page.programs import FIREFOX, browser_program

PATIENCE = 60.0  # seconds for one command, on a busy machine
ENTER = "\ue007"


class Firefox:
    """One tab of a Firefox."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._tab = ""
        self.complaints: list[str] = []
        """Errors that the page's scripts and its policy have told."""

    async def begin(self) -> None:
        """Open the session, and listen to the console."""
        await self.command("session.new", capabilities={})
        tree = await self.command("browsingContext.getTree")
        self._tab = tree["contexts"][0]["context"]
        await self.command("session.subscribe", events=["log.entryAdded"])

    async def command(self, method: str, **parameters: Any) -> Any:
        """The result of one command."""
        number = next(self._numbers)
        text = json.dumps({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE):
            await self._connection.send(text)
            while True:
                told = json.loads(await self._connection.recv())
                if told.get("method") == "log.entryAdded":
                    self._take(told["params"])
                elif told.get("id") == number:
                    assert told["type"] == "success", told
                    return told["result"]

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["level"] in ("error", "warn"):
            self.complaints.append(str(entry["text"]))

    async def load(self, url: str) -> None:
        """Go to an address, and wait until it has loaded."""
        await self.command("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    async def reload(self) -> None:
        """Load the page anew."""
        await self.command("browsingContext.reload", context=self._tab, wait="complete")

    async def read(self, expression: str) -> Any:
        """What an expression of JavaScript gives, as JSON; a promise is waited for."""
        result = await self.command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression}) ?? null))()",
            target={"context": self._tab},
            awaitPromise=True,
        )
        assert result["type"] == "success", result
        return json.loads(result["result"]["value"])

    async def until(self, expression: str, wanted: Any = True) -> None:
        """Wait for what an expression gives."""
        found = None
        for _ in range(int(PATIENCE / 0.1)):
            found = await self.read(expression)
            if found == wanted:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{expression} gives {found!r}, not {wanted!r}")

    async def write(self, text: str) -> None:
        """Press keys, one after the other, where the focus is."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        await self.command(
            "input.performActions",
            context=self._tab,
            actions=[{"type": "key", "id": "keyboard", "actions": actions}],
        )

    async def give(self, selector: str, *files: Path) -> None:
        """Choose files in a field."""
        found = await self.command(
            "browsingContext.locateNodes",
            context=self._tab,
            locator={"type": "css", "value": selector},
        )
        await self.command(
            "input.setFiles",
            context=self._tab,
            element={"sharedId": found["nodes"][0]["sharedId"]},
            files=[str(file) for file in files],
        )

    async def picture(self) -> bytes:
        """What is seen, as PNG."""
        found = await self.command("browsingContext.captureScreenshot", context=self._tab)
        return base64.b64decode(found["data"])


@asynccontextmanager
async def firefox() -> AsyncIterator[Firefox]:
    """A Firefox with a profile of its own, which ends with the test."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            browser_program(FIREFOX), "--headless", "--no-remote", "--profile", profile,
            "--remote-debugging-port", "0",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        drain: asyncio.Task[None] | None = None
        try:
            address = await _address(process)
            drain = asyncio.create_task(_drain(process))
            async with connect(f"{address}/session", max_size=None, compression=None) as connection:
                browser = Firefox(connection)
                await browser.begin()
                yield browser
        finally:
            process.kill()
            await process.wait()
            if drain is not None:
                await drain


async def _address(process: asyncio.subprocess.Process) -> str:
    """Where Firefox says that it listens."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stderr.readline()).decode(errors="replace"):
            if found := re.search(r"ws://[\w.:]+", line):
                return found[0]
    raise AssertionError("Firefox ended before it listened")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read on what Firefox says, so that it never waits for a reader."""
    assert process.stderr is not None
    while await process.stderr.readline():
        pass
