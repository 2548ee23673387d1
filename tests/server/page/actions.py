"""What the tests do with the page."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

from tests.server.page.scripted_api import ScriptedApi, text_of

PATIENCE = 60_000
"""Milliseconds until what is asked for is missing: it is there in a few, but on a loaded machine."""


def composer(page: Page) -> Locator:
    return page.locator("#composer-text")


def answers(page: Page) -> Locator:
    return page.locator("article.assistant")


def questions(page: Page) -> Locator:
    return page.locator("article.user .bubble")


async def ask(page: Page, text: str, *, wait: bool = True) -> None:
    """Send a message, and wait for its answer's end."""
    before = await answers(page).count()
    await composer(page).fill(text)
    await composer(page).press("Enter")
    await expect(answers(page)).to_have_count(before + 1)
    if wait:
        await settled(page)


STORE_IDLE = """() => new Promise((resolve, reject) => {
  if (!globalThis.indexedDB) return resolve();
  const opened = indexedDB.open("quire");
  opened.onerror = () => reject(opened.error);
  opened.onsuccess = () => {
    // Transactions on the same data run in the order in which they were made: this one is last.
    const last = opened.result.transaction(["conversations", "files"], "readwrite");
    last.objectStore("conversations").count();
    last.onabort = () => reject(last.error);
    last.oncomplete = () => { opened.result.close(); resolve(); };
  };
})"""


async def reload(page: Page) -> None:
    """Load the page anew, once all that it has begun to keep or to delete is kept or deleted."""
    await page.evaluate(STORE_IDLE)
    shows = await page.locator("article").count() > 0 and "#" in page.url
    await page.reload()
    if shows:  # the conversation of the address is read anew
        await page.locator("article").first.wait_for()


async def settled(page: Page) -> None:
    """Wait until no answer grows, and all are drawn."""
    await expect(page.locator("article[aria-busy=true], .prose[aria-busy=true]")).to_have_count(0)


async def stop_clock(page: Page) -> None:
    """Let no more time pass in the page's browser but what `page.clock` is told to."""
    await page.clock.install()
    await page.clock.pause_at(await page.evaluate("Date.now() / 1000") + 3600)


def messages_sent(api: ScriptedApi) -> list[tuple[str, str]]:
    return [(message["role"], text_of(message)) for message in api.last["messages"]]
