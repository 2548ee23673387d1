"""One conversation in two tabs: nothing is lost, nothing comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.server.page.actions import (
    PATIENCE,
    answers,
    ask,
    composer,
    questions,
    reload,
    settled,
    stop_clock,
)
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEAF = "delete globalThis.BroadcastChannel"
"""A tab that hears nothing of others, as one that the browser has frozen."""

HEARD = """globalThis.heard = 0;
new BroadcastChannel("quire").onmessage = ({ data }) => (heard += data.kind === "writing");"""
"""A tab that counts how often another one has said that it writes an answer."""

PATIENCE_OF_TABS = 1500
"""Milliseconds in which a tab that writes must say so."""

STORED = """async () => {
  const { openStore } = await import("/page/js/store.js");
  const kept = await (await openStore()).conversations();
  return kept.flatMap(({ nodes }) => nodes.map(({ text, finish = null }) => [text, finish]));
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def other(page: Page, api: ScriptedApi) -> AsyncIterator[Page]:
    """Another tab of the same browser."""
    tab = await page.context.new_page()
    tab.set_default_timeout(PATIENCE)
    await tab.goto(api.url)
    await tab.locator("#model option").first.wait_for(state="attached")
    yield tab
    await tab.close()


async def open_first(page: Page) -> None:
    await page.locator("#sidebar .title").first.click()
    await page.locator("article").first.wait_for()


async def stored(page: Page) -> dict[str, str | None]:
    """The texts of all messages that are kept, and how each ended."""
    return dict(await page.evaluate(STORED))


async def test_what_one_tab_writes_is_seen_in_the_other(page: Page, other: Page) -> None:
    await ask(page, "one")
    await open_first(other)
    await expect(questions(other)).to_have_text(["one"])
    await ask(page, "two")
    await expect(questions(other)).to_have_text(["one", "two"])
    await settled(other)
    await ask(other, "three")
    await expect(answers(page).last).to_contain_text("You said: three.")


@pytest.mark.parametrize("hears", [True, False])
async def test_both_tabs_messages_are_kept(page: Page, other: Page, hears: bool) -> None:
    await ask(page, "one")
    if not hears:
        await other.add_init_script(DEAF)
    await reload(other)
    await open_first(other)
    await expect(questions(other)).to_have_text(["one"])
    await ask(page, "of the first tab")
    if hears:
        await expect(questions(other)).to_have_text(["one", "of the first tab"])
        await settled(other)  # no message is taken before
    await ask(other, "of the other tab")
    await reload(page)
    kept = await stored(page)
    assert set(kept) == {
        "one",
        "You said: one.",
        "of the first tab",
        "You said: of the first tab.",
        "of the other tab",
        "You said: of the other tab.",
    }


async def test_names_are_kept_as_they_were_given_last(page: Page, other: Page) -> None:
    await ask(page, "one")
    await other.add_init_script(DEAF)
    await reload(other)
    await open_first(other)
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Rename one").click()
    await page.get_by_label("Title").fill("Better")
    await page.get_by_label("Title").press("Enter")
    await expect(page.locator("#sidebar .title")).to_have_text(["Better"])
    await ask(other, "two")
    await expect(other.locator("#title")).to_have_text("Better")
    await reload(page)
    await expect(page.locator("#sidebar .title")).to_have_text(["Better"])


async def test_an_answer_is_not_interrupted_while_another_tab_writes_it(
    page: Page, other: Page, api: ScriptedApi
) -> None:
    await ask(page, "held", wait=False)
    await expect(answers(page)).to_contain_text("Before.")
    await stop_clock(
        page
    )  # a loaded machine may keep the other tab silent for longer than is waited
    await other.add_init_script(HEARD)
    await reload(other)
    await open_first(other)
    await expect(answers(other)).to_have_attribute("aria-busy", "true")
    await expect(other.get_by_role("button", name="Stop the answer")).to_be_visible()
    for times in range(1, 4):
        await other.wait_for_function(f"() => heard === {times}")
        await page.clock.run_for(PATIENCE_OF_TABS)
    await page.clock.resume()
    await expect(answers(other)).to_have_attribute("aria-busy", "true")
    await expect(other.locator(".note", has_text="Interrupted")).to_have_count(0)
    api.hold.set()
    await expect(answers(other).locator(".prose").last).to_have_text("Before. After.")
    await settled(page)
    assert await stored(page) == {"held": None, "Before. After.": "stop"}


async def test_an_answer_whose_tab_is_closed_is_interrupted(
    page: Page, other: Page, api: ScriptedApi
) -> None:
    await ask(other, "endless", wait=False)
    await expect(answers(other)).to_contain_text("3 ")
    await open_first(page)
    await expect(answers(page)).to_have_attribute("aria-busy", "true")
    await expect(answers(page)).to_contain_text("0 1 2")  # this much is kept
    await other.close()
    await expect(page.locator(".note", has_text="Interrupted")).to_be_visible()
    await expect(answers(page)).to_contain_text("0 1 2")


async def test_an_answer_is_stopped_from_the_other_tab(
    page: Page, other: Page, api: ScriptedApi
) -> None:
    await ask(page, "endless", wait=False)
    await expect(answers(page)).to_contain_text("3 ")
    await open_first(other)
    await other.get_by_role("button", name="Stop the answer").click()
    await expect(page.locator(".note", has_text="Stopped.")).to_be_visible()
    await expect(other.locator(".note", has_text="Stopped.")).to_be_visible()


@pytest.mark.parametrize(
    ("button", "done"),
    [("Stop the answer", "Stopped."), ("Delete endless", "deleted in another tab")],
)
async def test_a_button_is_pressed_while_the_other_tab_writes(
    page: Page, other: Page, button: str, done: str
) -> None:
    """What the other tab saves meanwhile replaces neither the button nor its icon."""
    await ask(page, "endless", wait=False)
    await open_first(other)
    await expect(answers(other)).to_contain_text("3 ")
    await other.locator(".conversations li").hover()
    await other.get_by_role("button", name=button).hover()
    await other.mouse.down()
    before = await answers(other).inner_text()
    await expect(answers(other)).not_to_have_text(before, use_inner_text=True)
    await other.mouse.up()
    await expect(page.locator(".note, .notice", has_text=done)).to_be_visible()


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("button", ["Delete one", "Delete all"])
async def test_a_deleted_conversation_stays_deleted(
    page: Page, other: Page, api: ScriptedApi, hears: bool, button: str
) -> None:
    await ask(page, "one")
    if not hears:
        await other.add_init_script(DEAF)
    await reload(other)
    await open_first(other)
    await ask(other, "held", wait=False)
    await expect(answers(other).last).to_contain_text("Before.")
    if button == "Delete all":
        await page.keyboard.press("Alt+KeyS")
    else:
        await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name=button).click()
    if button == "Delete all":
        await page.locator("dialog.small").get_by_role("button", name="Delete").click()
    await expect(page.locator("#sidebar .title")).to_have_count(0)
    if not hears:
        api.hold.set()
    await expect(other.locator("#notices")).to_contain_text("deleted in another tab")
    await expect(other.locator("#sidebar .title")).to_have_count(0)
    api.hold.set()
    await reload(page)
    await expect(page.locator("#sidebar .title")).to_have_count(0)
    assert await stored(page) == {}


async def test_a_draft_outlives_its_conversation(page: Page, other: Page) -> None:
    await ask(page, "one")
    await open_first(other)
    await expect(questions(other)).to_have_text(["one"])
    await composer(other).fill("half a thought")
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Delete one").click()
    await expect(questions(other)).to_have_count(0)
    await expect(composer(other)).to_have_value("half a thought")


async def test_what_one_tab_brings_back_is_back_in_both(page: Page, other: Page) -> None:
    await ask(page, "one")
    await open_first(other)
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Delete one").click()
    await expect(other.locator("#sidebar .title")).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(other.locator("#sidebar .title")).to_have_text(["one"])
    await open_first(other)
    await ask(other, "two")
    await expect(questions(page)).to_have_text(["one", "two"])
    await reload(page)
    await expect(questions(page)).to_have_text(["one", "two"])
