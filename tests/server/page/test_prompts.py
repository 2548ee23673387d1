"""Saved prompts: found by a slash, filled in, kept, taken along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, composer, messages_sent, reload, settled
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_tabs import other

__all__ = ["other"]

pytestmark = pytest.mark.asyncio(loop_scope="session")

SUMMARISE = "Summarise it in {{number}} sentences, for {{reader}}."
PROMPTS = {"Summarise": SUMMARISE, "Translate": "Translate into German: ", "Sum up": "A + B"}


def shown(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Saved prompts")


def names(page: Page) -> Locator:
    return shown(page).locator(".use b")


async def keep(page: Page, prompts: dict[str, str] | None = None) -> None:
    given = PROMPTS if prompts is None else prompts
    kept = [{"id": name, "name": name, "text": text} for name, text in given.items()]
    await page.evaluate("(all) => localStorage.setItem('quire.prompts', JSON.stringify(all))", kept)


async def stored(page: Page) -> dict[str, str]:
    kept = json.loads(await page.evaluate("localStorage.getItem('quire.prompts') ?? '[]'"))
    return {one["name"]: one["text"] for one in kept}


async def typed(page: Page, text: str = "/") -> None:
    """Type into the empty field, key by key, once the list is there."""
    await composer(page).press(text[0])
    await shown(page).wait_for()
    await composer(page).press_sequentially(text[1:])


async def test_a_slash_finds_a_prompt(page: Page, api: ScriptedApi) -> None:
    await keep(page)
    await typed(page)
    await expect(names(page)).to_have_text(["Sum up", "Summarise", "Translate"])
    await composer(page).press_sequentially("SUM")
    await expect(names(page)).to_have_text(["Sum up", "Summarise"])
    active = shown(page).locator("[aria-selected=true]")
    await expect(active).to_contain_text("Sum up")
    await page.keyboard.press("ArrowDown")
    await expect(active).to_contain_text("Summarise")
    id = await active.get_attribute("id")
    await expect(composer(page)).to_have_attribute("aria-activedescendant", str(id))
    await page.keyboard.press("ArrowDown")  # round to the first one
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Enter")
    await expect(shown(page)).to_be_hidden()
    await expect(composer(page)).to_have_value(SUMMARISE)
    assert api.bodies == []
    await page.keyboard.type("three")  # in the place of the first blank
    await page.keyboard.press("Tab")
    await page.keyboard.type("a child")
    await expect(composer(page)).to_have_value("Summarise it in three sentences, for a child.")
    await page.keyboard.press("Tab")
    await expect(composer(page)).not_to_be_focused()  # Tab is the page's again
    await composer(page).press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert messages_sent(api) == [("user", "Summarise it in three sentences, for a child.")]


async def test_a_prompt_without_blanks_ends_at_the_cursor(page: Page) -> None:
    await keep(page)
    await typed(page, "/german")
    await expect(shown(page)).to_be_hidden()  # names alone are searched
    await composer(page).fill("")
    await typed(page, "/tr")
    await names(page).first.click()
    await page.keyboard.type("Hello")
    await expect(composer(page)).to_have_value("Translate into German: Hello")


async def test_escape_leaves_a_text_that_begins_with_a_slash(page: Page, api: ScriptedApi) -> None:
    await keep(page)
    await typed(page, "/sum")
    await page.keyboard.press("Escape")
    await expect(shown(page)).to_be_hidden()
    await composer(page).press_sequentially(" it")
    await expect(shown(page)).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert messages_sent(api) == [("user", "/sum it")]


@pytest.mark.parametrize("text", ["/etc/hosts is empty", "/"])
async def test_a_text_that_no_name_fits_is_a_message(
    page: Page, api: ScriptedApi, text: str
) -> None:
    await keep(page, PROMPTS if len(text) > 1 else {})
    await typed(page, text)
    if len(text) > 1:
        await expect(shown(page)).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert messages_sent(api) == [("user", text)]


async def test_what_is_deleted_narrows_less(page: Page) -> None:
    await keep(page)
    await typed(page, "/sumx")
    await expect(shown(page)).to_be_hidden()
    await page.keyboard.press("Backspace")
    await expect(names(page)).to_have_count(2)
    for _ in range(4):
        await page.keyboard.press("Backspace")
    await expect(shown(page)).to_be_hidden()
    await expect(composer(page)).to_have_value("")


async def test_a_slash_within_a_text_opens_nothing(page: Page) -> None:
    await keep(page)
    await composer(page).press_sequentially("either/or")
    await page.wait_for_timeout(100)
    await expect(shown(page)).to_be_hidden()


async def test_escape_stops_no_answer_while_the_list_is_open(page: Page, api: ScriptedApi) -> None:
    await keep(page)
    await ask(page, "held", wait=False)
    await expect(answers(page)).to_contain_text("Before.")
    await typed(page)
    await page.keyboard.press("Escape")
    await expect(shown(page)).to_be_hidden()
    await expect(answers(page)).to_have_attribute("aria-busy", "true")
    await page.keyboard.press("Escape")
    await expect(answers(page)).to_have_attribute("aria-busy", "false")


async def test_a_message_is_saved_from_the_field(page: Page) -> None:
    await composer(page).fill("Write a limerick about {{topic}}.\nBe kind.")
    button = page.get_by_role("button", name="Saved prompts")
    await button.click()
    await expect(button).to_have_attribute("aria-expanded", "true")
    await shown(page).wait_for()
    await page.keyboard.press("Enter")  # the only option
    await expect(page.get_by_label("Name")).to_have_value("Write a limerick about {{topic}}.")
    await page.get_by_label("Name").fill("/limerick")
    await page.keyboard.press("Enter")
    await expect(page.locator("dialog")).to_have_count(0)
    assert await stored(page) == {"limerick": "Write a limerick about {{topic}}.\nBe kind."}
    await composer(page).fill("")
    await typed(page, "/lim")
    await page.keyboard.press("Enter")
    await page.keyboard.type("rain")
    await expect(composer(page)).to_have_value("Write a limerick about rain.\nBe kind.")


async def test_a_message_is_saved_from_the_thread(page: Page) -> None:
    await ask(page, "Tell me a joke")
    await page.get_by_label("You").hover()
    await page.get_by_role("button", name="Save as a prompt").click()
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(page.locator("dialog")).to_have_count(0)
    assert await stored(page) == {"Tell me a joke": "Tell me a joke"}


async def test_the_button_puts_a_prompt_where_the_cursor_is(page: Page) -> None:
    await keep(page)
    await composer(page).fill("Please: ")
    await page.get_by_role("button", name="Saved prompts").click()
    await shown(page).wait_for()
    await page.keyboard.press("Enter")
    await expect(composer(page)).to_have_value("Please: A + B")
    await expect(composer(page)).to_be_focused()
    await page.get_by_role("button", name="Saved prompts").click()
    await page.locator("#thread").click()
    await expect(shown(page)).to_be_hidden()


async def test_prompts_are_managed_in_the_settings(page: Page, other: Page) -> None:
    await keep(page)
    await page.get_by_role("button", name="Saved prompts").click()
    await page.get_by_role("option", name="Manage the prompts").click()
    listed = page.locator("dialog.settings .prompts b")
    await expect(listed).to_have_text(["Sum up", "Summarise", "Translate"])
    await expect(listed.first).to_be_in_viewport()
    await page.get_by_role("button", name="Edit Sum up").click()
    field = page.get_by_label("Name", exact=True)
    await field.fill("translate")
    await page.get_by_role("button", name="Save", exact=True).click()
    assert await field.evaluate("field => field.validationMessage") == (
        "Another prompt has this name."
    )
    await field.fill("Add")
    await page.get_by_label("Text", exact=True).fill("{{one}} + {{two}}")
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(listed).to_have_text(["Add", "Summarise", "Translate"])
    await page.get_by_role("button", name="New prompt").click()
    await page.get_by_label("Name", exact=True).fill("Extra")
    await page.get_by_label("Text", exact=True).fill("More")
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(listed).to_have_text(["Add", "Extra", "Summarise", "Translate"])
    await page.get_by_role("button", name="Delete Summarise").click()
    await expect(listed).to_have_text(["Add", "Extra", "Translate"])
    await page.get_by_role("button", name="Undo").click()
    await expect(listed).to_have_text(["Add", "Extra", "Summarise", "Translate"])
    await page.get_by_role("button", name="Delete Summarise").click()
    await typed(other)  # another tab has the same
    await expect(names(other)).to_have_text(["Add", "Extra", "Translate"])
    await other.evaluate("localStorage.removeItem('quire.prompts')")
    await expect(listed).to_have_count(0)


async def test_prompts_are_exported_and_imported(page: Page, tmp_path: Path) -> None:
    await keep(page)
    await page.keyboard.press("Alt+KeyS")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Export all").click()
    file = tmp_path / "all.json"
    await (await saved.value).save_as(file)
    await keep(page, {"summarise": "Another text", "Translate": PROMPTS["Translate"]})
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Import").click()
    await (await chooser.value).set_files(file)
    await expect(page.get_by_text("0 conversations and 2 prompts imported.")).to_be_visible()
    assert await stored(page) == {
        "summarise": "Another text",
        "Translate": PROMPTS["Translate"],
        "Sum up": "A + B",
        "Summarise 2": SUMMARISE,
    }
    assert await page.evaluate(
        """async (given) => {
          const { checked } = await import("/page/js/prompts.js");
          return checked(given).map(({ name, text }) => [name, text]);
        }""",
        [None, 5, {"name": "a"}, {"name": " ", "text": "x"}, {"name": "/b\nc", "text": "x"}],
    ) == [["b c", "x"]]


async def test_one_conversation_takes_no_prompts_along(page: Page, tmp_path: Path) -> None:
    await keep(page)
    await ask(page, "one")
    await page.keyboard.press("Alt+KeyE")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Save as JSON").click()
    file = tmp_path / "one.json"
    await (await saved.value).save_as(file)
    assert json.loads(file.read_text())["prompts"] == []


async def test_prompts_outlive_a_reload_and_a_full_store_is_told(page: Page) -> None:
    await keep(page)
    await reload(page)
    await page.evaluate(
        "void (Storage.prototype.setItem = () => { throw new Error('it is full') })"
    )
    await typed(page)
    await page.get_by_role("option", name="New prompt").click()
    await page.get_by_label("Name", exact=True).fill("Extra")
    await page.get_by_label("Text", exact=True).fill("More")
    await page.get_by_role("button", name="Save", exact=True).click()
    told = page.get_by_text("This browser could not keep the prompt: it is full")
    await expect(told).to_be_visible()
    assert await stored(page) == PROMPTS
