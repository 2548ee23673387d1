"""The switch for thoughts: an option of the conversation, which the settings show as well."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, reload
from tests.server.page.scripted_api import MODELS, ScriptedApi
from tests.server.page.test_tabs import open_first, other

__all__ = ["other"]

pytestmark = pytest.mark.asyncio(loop_scope="session")

SENT = ("enable_thinking", "reasoning_effort")


async def thinks(page: Page, api: ScriptedApi, default: bool | None, *efforts: str) -> Locator:
    """Load the page anew for a model that can think; returns the switch."""
    choices = {"switch": True, "default": default, "efforts": list(efforts)}
    api.models = [{**MODELS[0], "thinking": choices}, {**MODELS[0], "id": "plain"}]
    await reload(page)
    switch = page.get_by_role("button", name="Think", exact=True)
    await switch.wait_for()
    return switch


def sent(api: ScriptedApi) -> dict[str, Any]:
    return {name: api.last[name] for name in SENT if name in api.last}


async def test_a_model_that_cannot_think_has_no_switch(page: Page, api: ScriptedApi) -> None:
    await expect(page.locator("#think")).to_have_count(0)
    await page.keyboard.press("Alt+KeyT")
    await ask(page, "hello")
    assert sent(api) == {}
    switch = await thinks(page, api, default=True)
    await page.locator("#model").select_option("plain")
    await expect(switch).to_be_hidden()
    await page.locator("#model").select_option("scripted")
    await expect(switch).to_be_visible()


@pytest.mark.parametrize("default", [True, False])
async def test_one_click_turns_thoughts_on_and_off(
    page: Page, api: ScriptedApi, default: bool
) -> None:
    switch = await thinks(page, api, default)
    states = [str(default).lower(), str(not default).lower()]
    await expect(switch).to_have_attribute("aria-pressed", states[0])
    await ask(page, "as it is")
    assert sent(api) == {}
    await switch.click()
    await expect(switch).to_have_attribute("aria-pressed", states[1])
    await expect(page.locator("#announcer")).to_contain_text("thinks" if not default else "not")
    await ask(page, "the other way")
    assert sent(api) == {"enable_thinking": not default}
    await page.keyboard.press("Alt+KeyT")
    await expect(switch).to_have_attribute("aria-pressed", states[0])
    await ask(page, "and back")
    assert sent(api) == {}


async def test_where_the_model_decides_the_switch_is_neither(page: Page, api: ScriptedApi) -> None:
    switch = await thinks(page, api, default=None)
    await expect(switch).to_have_attribute("aria-pressed", "mixed")
    for wanted in (True, False):
        await switch.click()
        await ask(page, "hello")
        assert sent(api) == {"enable_thinking": wanted}


async def test_it_belongs_to_the_conversation(page: Page, api: ScriptedApi) -> None:
    switch = await thinks(page, api, default=True)
    await switch.click()
    await ask(page, "without")
    assert sent(api) == {"enable_thinking": False}
    await page.keyboard.press("Alt+KeyN")
    await expect(switch).to_have_attribute("aria-pressed", "true")
    await ask(page, "with")
    assert sent(api) == {}
    await reload(page)
    await page.locator("#sidebar .title", has_text="without").click()
    await expect(switch).to_have_attribute("aria-pressed", "false")


async def test_switch_and_settings_are_one(page: Page, api: ScriptedApi) -> None:
    switch = await thinks(page, api, default=True)
    await switch.click()
    await page.keyboard.press("Alt+KeyS")
    field = page.get_by_role("combobox", name="Thinking", exact=True)
    await expect(field).to_have_value("false")  # of this conversation
    await field.select_option("On")
    await expect(switch).to_have_attribute("aria-pressed", "true")
    await page.get_by_label("In all conversations").check()
    await field.select_option("Off")
    await page.get_by_label("In this one").check()
    await field.select_option("")
    await page.keyboard.press("Escape")
    await expect(switch).to_have_attribute("aria-pressed", "false")
    await ask(page, "hello")
    assert sent(api) == {"enable_thinking": False}


async def test_switch_and_effort_never_contradict_each_other(page: Page, api: ScriptedApi) -> None:
    """The server refuses that."""
    switch = await thinks(page, api, False, "low", "high")
    await page.keyboard.press("Alt+KeyS")
    await page.locator("dialog").get_by_label("Reasoning effort", exact=True).fill("low")
    await page.keyboard.press("Escape")
    await expect(switch).to_have_attribute("aria-pressed", "true")
    await switch.click()
    await ask(page, "off")
    assert sent(api) == {"enable_thinking": False}
    await switch.click()
    await ask(page, "on")
    assert sent(api) == {"reasoning_effort": "low"}


async def test_an_effort_is_chosen_where_the_model_knows_several(
    page: Page, api: ScriptedApi
) -> None:
    switch = await thinks(page, api, True, "low", "high")
    effort = page.get_by_role("combobox", name="Reasoning effort")
    await expect(effort.locator("option")).to_have_text(["Effort", "Effort: low", "Effort: high"])
    await effort.select_option("high")
    await ask(page, "hard")
    assert sent(api) == {"reasoning_effort": "high"}
    await effort.select_option("")
    await ask(page, "as it is")
    assert sent(api) == {}
    await switch.click()
    await expect(effort).to_be_hidden()


async def test_another_tab_has_the_same_switch(page: Page, other: Page, api: ScriptedApi) -> None:
    switch = await thinks(page, api, default=True)
    await ask(page, "one")
    await reload(other)
    await open_first(other)
    await switch.click()
    theirs = other.get_by_role("button", name="Think", exact=True)
    await expect(theirs).to_have_attribute("aria-pressed", "false")
    await ask(other, "two")
    assert sent(api) == {"enable_thinking": False}
    await expect(answers(page)).to_have_count(2)


async def test_a_phone_shows_the_switch(page: Page, api: ScriptedApi) -> None:
    await page.set_viewport_size({"width": 320, "height": 640})
    switch = await thinks(page, api, True, "low", "medium", "high")
    await expect(switch).to_be_in_viewport()
    send = page.get_by_role("button", name="Send")
    await expect(send).to_be_in_viewport()
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320
