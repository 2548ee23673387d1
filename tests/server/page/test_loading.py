"""What the page loads, and when: little at first, the rest before it is needed."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.server.page.actions import answers, ask, composer, reload
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = 220_000
"""Bytes of a first load, unpacked: 300,000 are too many, formulas and PDFs apart."""
FIRST_SENT = 85_000
DRAWING = 190_000
"""Bytes of what draws answers, unpacked."""
GONE = "The server cannot be reached. Does it still run?"

LOADED = """() => [
  ...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource"),
].map(({ name, decodedBodySize, encodedBodySize }) => [name, decodedBodySize, encodedBodySize])"""


async def loaded(page: Page) -> dict[str, tuple[int, int]]:
    """The addresses of all that was loaded, with the bytes of each, unpacked and as sent."""
    return {name: (size, sent) for name, size, sent in await page.evaluate(LOADED)}


async def until_loaded(page: Page, ending: str) -> None:
    async with asyncio.timeout(15):
        while not any(name.endswith(ending) for name in await loaded(page)):
            await asyncio.sleep(0.05)


def sizes(files: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(size for size, _ in files.values()), sum(sent for _, sent in files.values())


async def test_the_first_load_is_small(page: Page) -> None:
    """What draws answers comes with the first question, what only some need with those."""
    await page.wait_for_load_state("networkidle")
    first = await loaded(page)
    later = r"markdown|purify|view/prose|katex|pdf|documents|highlight|js/options|view/settings|view/share"
    assert not [name for name in first if re.search(later, name)]
    size, sent = sizes(first)
    assert (size < FIRST, sent < FIRST_SENT) == (True, True)
    await composer(page).press("h")
    await until_loaded(page, "/view/prose.js")
    await ask(page, "hello")
    await expect(answers(page).locator(".prose p")).to_have_text("You said: hello.")
    second = {name: both for name, both in (await loaded(page)).items() if name not in first}
    assert any(name.endswith("/markdown-it.min.js") for name in second)
    assert sizes(second)[0] < DRAWING


async def test_where_there_are_conversations_answers_can_be_drawn_at_once(page: Page) -> None:
    await ask(page, "hello")
    await page.keyboard.press("Alt+KeyN")
    await reload(page)
    await until_loaded(page, "/view/prose.js")


async def test_an_answer_is_shown_as_it_is_written_while_markdown_cannot_be_loaded(
    page: Page, api: ScriptedApi
) -> None:
    api.away = True
    api.answer = "One *word*,\nand another.\u202e"
    await ask(page, "first")
    plain = answers(page).locator(".prose.plain")
    await expect(plain).to_have_text("One *word*,\nand another.\ufffd", use_inner_text=True)
    await expect(page.locator("#notices .notice")).to_contain_text(GONE)
    await ask(page, "second")
    await expect(plain).to_have_count(2)
    api.away = False
    await ask(page, "third")
    await expect(plain).to_have_count(0)
    await expect(answers(page).locator("em")).to_have_text(["word"] * 3)


@pytest.mark.parametrize(("button", "title"), [("#settings", "Settings"), ("#share", "Export")])
async def test_a_dialog_that_cannot_be_loaded_tells_and_is_tried_again(
    page: Page, api: ScriptedApi, button: str, title: str
) -> None:
    await ask(page, "hello")

    async def abort(route: Route) -> None:
        await route.abort()

    await page.route("**/page/**", abort)
    await page.locator(button).click()
    await expect(page.locator("#notices .notice")).to_contain_text(GONE)
    await page.unroute("**/page/**")
    await page.locator(button).click()
    await expect(page.locator("dialog h2").first).to_contain_text(title)


async def test_a_dialog_that_comes_late_is_of_what_was_shown_when_it_was_asked_for(
    page: Page,
) -> None:
    asked, come = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        asked.set()
        await come.wait()
        await route.continue_()

    await page.route("**/view/share.js", late)
    await page.route("**/view/settings.js", late)
    await page.keyboard.press("Alt+KeyE")  # nothing is begun: there is nothing to export
    await ask(page, "first")
    assert not asked.is_set()
    await page.keyboard.press("Alt+KeyE")
    await asyncio.wait_for(asked.wait(), 60)
    await page.keyboard.press("Alt+KeyN")
    await page.keyboard.press("Alt+KeyS")
    await page.locator("#help").click()
    await expect(page.locator("dialog")).to_have_count(1)
    come.set()
    await until_loaded(page, "/view/share.js")
    await until_loaded(page, "/view/settings.js")
    await page.wait_for_timeout(100)
    await expect(page.locator("dialog")).to_have_count(1)
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    await page.keyboard.press("Alt+KeyS")
    await expect(page.locator("dialog.settings")).to_be_visible()


async def test_who_points_at_a_button_finds_its_dialog_loaded(page: Page) -> None:
    await page.locator("#settings").hover()
    await until_loaded(page, "/js/options.js")


async def test_all_is_found_below_a_path(page: Page, api: ScriptedApi) -> None:
    """As behind a proxy that takes the path away."""

    async def forward(route: Route) -> None:
        await route.continue_(url=route.request.url.replace("/chat/", "/", 1))

    await page.route(f"{api.url}/chat/**", forward)
    await page.goto(f"{api.url}/chat/")
    await ask(page, "rich")
    await expect(answers(page).locator(".hljs-keyword").first).to_have_text("def")
    await reload(page)
    await expect(answers(page).locator("td").first).to_have_text("one")
    await page.locator("#settings").click()
    await expect(page.locator("dialog.settings")).to_be_visible()
    names = await loaded(page)
    assert [name for name in names if not name.startswith(f"{api.url}/chat/")] == []
