"""axe, the checker of accessibility, finds nothing in the states in which people see the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.server.page.actions import answers, ask, composer
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_begun_calls import give_tools
from tests.server.page.test_media import choose
from tests.server.page.test_prompts import keep, typed
from tests.server.page.test_thinking import thinks

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECKS = {"resultTypes": ["violations"]}


async def empty(page: Page) -> None:
    await composer(page).fill("half a thought")


async def conversation(page: Page) -> None:
    for text in ("rich", "think", "length", "line\n" * 100, "fail", "weather"):
        await ask(page, text)
    await page.locator(".thought summary:visible").click()
    await page.get_by_role("button", name="Retry").first.click()


async def stopped(page: Page) -> None:
    await ask(page, "endless", wait=False)
    await expect(answers(page)).to_contain_text("3 ")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Continue", exact=True).wait_for()


async def waiting(page: Page) -> None:
    await ask(page, "held", wait=False)


async def editing(page: Page) -> None:
    await ask(page, "rich")
    await answers(page).get_by_role("button", name="Edit").click()
    await composer(page).press("ArrowUp")


async def settings(page: Page) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_text("More options").click()
    await page.get_by_label("Functions").fill("[{]")


async def share(page: Page) -> None:
    await ask(page, "one")
    await page.keyboard.press("Alt+KeyE")


async def keyboard(page: Page) -> None:
    await page.locator("#thread").focus()
    await page.keyboard.press("?")


async def deletion(page: Page) -> None:
    await ask(page, "one")
    await page.locator(".conversations li").hover()
    await page.get_by_role("button", name="Delete one").click()
    await page.get_by_role("button", name="Undo").wait_for()


async def unknown_address(page: Page) -> None:
    await page.evaluate("location.hash = 'nobody'")
    await page.locator(".notice").wait_for()


async def search(page: Page) -> None:
    await ask(page, "apples")
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "pears")
    await page.get_by_label("Search the conversations").fill("you said")
    await page.locator("#sidebar mark").first.wait_for()
    await page.locator(".conversations li").first.hover()


async def too_much(page: Page) -> None:
    await choose(page, *[(f"{each}.png", "image/png", b"0" * 90_000) for each in range(2)])
    await page.locator("#composer > .excess").wait_for()


async def phone(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 780})
    await ask(page, "rich")
    await answers(page).locator(".figures").get_by_role("button").click()


async def phone_with_conversations(page: Page) -> None:
    await phone(page)
    await page.get_by_role("button", name="Conversations").click()


async def enlarged(page: Page) -> None:
    await page.set_viewport_size({"width": 320, "height": 256})
    await ask(page, "rich")


async def prompts(page: Page) -> None:
    await keep(page)
    await typed(page)


async def no_prompts(page: Page) -> None:
    await composer(page).fill("half a thought")
    await page.get_by_role("button", name="Saved prompts").click()
    await page.get_by_role("listbox").wait_for()


async def prompts_in_settings(page: Page) -> None:
    await keep(page)
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_role("button", name="Delete Summarise").click()


async def prompt_dialog(page: Page) -> None:
    await ask(page, "one")
    await page.get_by_label("You").hover()
    await page.get_by_role("button", name="Save as a prompt").click()


async def pinned(page: Page) -> None:
    await ask(page, "one")
    await page.locator(".conversations li").hover()
    await page.get_by_role("button", name="Pin one").click()
    await page.get_by_role("button", name="Unpin one").wait_for()


async def begun_call(page: Page) -> None:
    await give_tools(page)
    await ask(page, "write", wait=False)
    await page.locator(".begun pre").wait_for()


STATES = [
    empty,
    conversation,
    stopped,
    waiting,
    editing,
    settings,
    share,
    keyboard,
    deletion,
    unknown_address,
    search,
    too_much,
    phone,
    phone_with_conversations,
    enlarged,
    prompts,
    no_prompts,
    prompts_in_settings,
    prompt_dialog,
    pinned,
    begun_call,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_axe_finds_nothing(
    page: Page, api: ScriptedApi, state: Callable[[Page], Awaitable[None]]
) -> None:
    await page.emulate_media(reduced_motion="reduce")  # no colour is on its way to another
    await state(page)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        results = await Axe().run(page, options=CHECKS)
        assert results.violations_count == 0, f"{scheme}: {results.generate_report()}"


@pytest.mark.parametrize("default", [True, False, None])
async def test_axe_finds_nothing_where_a_model_thinks(
    page: Page, api: ScriptedApi, default: bool | None
) -> None:
    await thinks(page, api, default, "low", "high")
    await test_axe_finds_nothing(page, api, empty)
