"""A Chromium for the whole session, and a new page with nothing kept for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.server.page.actions import PATIENCE
from tests.server.page.programs import CHROMIUM, browser_program
from tests.server.page.scripted_api import ScriptedApi, scripted_api

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
expect.set_options(timeout=PATIENCE)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = browser_program(CHROMIUM)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def api_of_session() -> Iterator[ScriptedApi]:
    with scripted_api() as api:
        yield api


@pytest.fixture
def api(api_of_session: ScriptedApi) -> ScriptedApi:
    api_of_session.reset()
    return api_of_session


@pytest.fixture
def complaints() -> list[str]:
    """What the page's console and its policy complain of; a test may expect and clear it."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, api: ScriptedApi, complaints: list[str]) -> AsyncIterator[Page]:
    """The chat page, loaded; a complaint fails the test."""
    async with opened(browser, api.url, complaints) as page:
        yield page
    assert complaints == []


@asynccontextmanager
async def opened(browser: Browser, url: str, complaints: list[str]) -> AsyncIterator[Page]:
    """The chat page of a server, in a browser that keeps nothing of other tests."""
    context = await browser.new_context(viewport={"width": 1200, "height": 800})
    await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if is_bad(said) else None)
    await page.goto(url)
    await page.locator("#model option").first.wait_for(state="attached")
    yield page
    await context.close()


def is_bad(message: object) -> bool:
    """Errors of the page's own; a refused request is no fault of the page."""
    kind, text = message.type, message.text  # type: ignore[attr-defined]
    return kind in ("error", "warning") and "Failed to load resource" not in text
