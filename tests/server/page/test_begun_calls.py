"""Calls of tools while the model writes them."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import answers, ask, reload, settled
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOOLS = [{"name": name} for name in ("get_we", "get_weather")]


async def give_tools(page: Page) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Functions").fill(json.dumps(TOOLS))
    await page.keyboard.press("Escape")


async def test_a_call_is_shown_while_it_is_written(page: Page, api: ScriptedApi) -> None:
    await give_tools(page)
    await ask(page, "write", wait=False)
    call = answers(page).locator(".call")
    await expect(call.locator("summary")).to_have_text("Writes a call of get_weather")
    await expect(call.locator("pre")).to_have_text('{"city":')
    assert api.last["stream_options"] == {"include_usage": True, "include_held_text": True}
    api.hold.set()
    await settled(page)
    await expect(call).to_have_count(1)
    await expect(call.locator("summary")).to_have_text("Calls get_weather")
    await expect(call.locator("pre")).to_have_text('{ "city": "Oslo" }')
    await reload(page)
    await expect(call.locator("summary")).to_have_text("Calls get_weather")


async def test_a_call_that_was_stopped_is_no_more(page: Page, api: ScriptedApi) -> None:
    await give_tools(page)
    await ask(page, "write", wait=False)
    await expect(answers(page).locator(".call")).to_be_visible()
    await page.keyboard.press("Escape")
    await settled(page)
    await expect(answers(page).locator(".call")).to_have_count(0)
    await expect(answers(page).locator(".prose").last).to_have_text("I look it up.")


@pytest.mark.parametrize(
    ("text", "told", "arguments"),
    [
        ("</think>\n\n", None, ""),
        ("<tool_call>\n", None, ""),
        ('<tool_call>{"arguments": {"city"', "Writes a call", ""),
        ("<tool_call>get_weather", "Writes a call", ""),  # it may be the beginning of another name
        ("get_we(", "Writes a call of get_we", "("),
        ('[get_weather(city="Os', "Writes a call of get_weather", '(city="Os'),
        ('{"name": "get_weather", "argu', "Writes a call of get_weather", ""),
        ('{"name": "get_weather", "arguments": {"a', "Writes a call of get_weather", '{"a'),
        ("<function=get_weather>\n<parameter=a>", "Writes a call of get_weather", "<parameter=a>"),
        (
            'functions.get_weather:0<|tool_call_argument_begin|>{"a',
            "Writes a call of get_weather",
            '{"a',
        ),
        ('to=functions.get_weather <|message|>{"a', "Writes a call of get_weather", '{"a'),
    ],
)
async def test_names_and_arguments_of_many_forms(
    page: Page, text: str, told: str | None, arguments: str
) -> None:
    found = await page.evaluate(
        """async ([text, tools]) => {
          const { BegunCall } = await import("/page/js/view/begun_call.js");
          const parent = document.createElement("div");
          const call = new BegunCall(parent, JSON.stringify(tools));
          call.update(text);
          const shown = parent.querySelector("summary")?.textContent ?? null;
          return [shown, parent.querySelector("pre")?.textContent ?? ""];
        }""",
        [text, TOOLS],
    )
    assert found == [told, arguments]
