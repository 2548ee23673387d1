"""The settings of all request options, what an answer took, and its tokens' probabilities."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from quire.options import GROUPS, on_wire
from quire.server import page as page_module
from quire.server.apis.openai.schema import ChatCompletionRequest
from tests.server.page.actions import answers, ask, reload, settled
from tests.server.page.scripted_api import MODELS, ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEFAULTS = {"temperature": 0.7, "max_tokens": 512, "do_sample": True}
SET = {
    "Temperature": ("temperature", "0.2", 0.2),
    "Top-k": ("top_k", "7", 7),
    "Stop strings": ("stop", "END\n\\n\\n", ["END", "\n\n"]),
    "Reasoning effort": ("reasoning_effort", "low", "low"),
    "Logit bias": ("logit_bias", '{"5": -1.5}', {"5": -1.5}),
}


def options_of_the_page() -> list[dict[str, Any]]:
    text = page_module.page_files()["js/options.js"].content.decode()
    return json.loads(text[text.index("[") : text.rindex("]") + 1])


async def test_the_page_offers_the_options_of_the_table() -> None:
    offered = options_of_the_page()
    names = {one["name"] for one in offered}
    left = {"n", "logprobs", "prompt_logprobs", "add_generation_prompt", "continue_final_message"}
    assert names == set(on_wire("openai")) - left
    assert names <= set(ChatCompletionRequest.model_fields)
    kinds = {one["name"]: one for one in offered}
    assert (kinds["temperature"]["kind"], kinds["temperature"]["high"]) == ("number", 2)
    assert (kinds["top_k"]["kind"], kinds["top_k"]["low"]) == ("integer", -1)
    assert "high" not in kinds["max_tokens"]
    assert kinds["do_sample"]["kind"] == "flag"
    assert kinds["stop"]["kind"] == "lines"
    assert kinds["response_format"]["kind"] == "json"


async def test_all_options_go_with_the_request(page: Page, api: ScriptedApi) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_text("More options").click()
    for label, (_, written, _) in SET.items():
        await page.get_by_label(label, exact=True).fill(written)
    await page.get_by_label("Ignore EOS").select_option("On")
    await page.get_by_label("Logit bias").blur()
    await page.keyboard.press("Escape")
    await ask(page, "hello")
    wanted = {name: value for name, _, value in SET.values()} | {"ignore_eos": True}
    sent = {name: value for name, value in api.last.items() if name in on_wire("openai")}
    assert sent == wanted
    await reload(page)
    await page.locator("#model option").first.wait_for(state="attached")
    await page.keyboard.press("Alt+KeyS")
    for label, (_, written, _) in SET.items():  # the group is open, since something is set in it
        field = page.get_by_label(label, exact=True)
        await expect(field).to_be_visible()
        assert (await field.input_value()).replace("\n ", "").replace("\n}", "}") == written
    await page.get_by_label("Logit bias").fill("{")
    await page.get_by_label("Top-k").fill("1.5")
    await page.get_by_label("Temperature").fill("3")
    await page.keyboard.press("Escape")
    await ask(page, "again")
    sent = {name: value for name, value in api.last.items() if name in on_wire("openai")}
    assert sent == wanted  # what is wrong is not kept


async def test_the_models_own_defaults_are_shown(page: Page, api: ScriptedApi) -> None:
    api.models = [{**MODELS[0], "defaults": DEFAULTS}]
    await page.reload()
    await expect(page.locator("#model option")).to_have_count(1)
    await page.keyboard.press("Alt+KeyS")
    temperature = page.get_by_label("Temperature")
    await expect(temperature).to_have_attribute("placeholder", "0.7")
    await expect(page.get_by_label("Max tokens")).to_have_attribute("placeholder", "512")
    await expect(page.get_by_label("Seed")).to_have_attribute("placeholder", "Default")
    sampled = page.locator(".field", has_text="Sample tokens").locator("option").first
    await expect(sampled).to_have_text("Default (on)")


async def test_a_conversation_has_options_of_its_own(page: Page, api: ScriptedApi) -> None:
    await ask(page, "first")
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Temperature").fill("0.2")
    await page.get_by_label("In this one").check()
    temperature = page.get_by_label("Temperature")
    await expect(temperature).to_have_value("")
    await expect(temperature).to_have_attribute("placeholder", "0.2")
    await temperature.fill("0.9")
    await page.get_by_label("Seed").fill("5")
    await page.keyboard.press("Escape")
    await ask(page, "here")
    assert (api.last["temperature"], api.last["seed"]) == (0.9, 5)
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "elsewhere")
    assert (api.last["temperature"], "seed" in api.last) == (0.2, False)
    await reload(page)
    await page.locator("#sidebar .title", has_text="first").click()
    await page.keyboard.press("Alt+KeyS")
    await expect(page.get_by_label("In this one")).to_be_checked()
    await page.get_by_label("Temperature").fill("")
    await page.keyboard.press("Escape")
    await ask(page, "once more")
    assert (api.last["temperature"], api.last["seed"]) == (0.2, 5)


async def test_settings_of_an_earlier_page_are_kept(page: Page, api: ScriptedApi) -> None:
    old = {"temperature": 0.3, "top_p": None, "seed": 3, "thinking": "off", "theme": "dark"}
    await page.evaluate("(old) => localStorage.setItem('quire.settings', JSON.stringify(old))", old)
    await page.reload()
    await page.locator("#model option").first.wait_for(state="attached")
    await ask(page, "hello")
    told = {
        name: api.last.get(name) for name in ("temperature", "top_p", "seed", "enable_thinking")
    }
    assert told == {"temperature": 0.3, "top_p": None, "seed": 3, "enable_thinking": False}


async def test_options_are_named_for_people_and_by_their_names_in_the_api(
    page: Page, api: ScriptedApi
) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_text("More options").click()
    options = page.locator(".option")
    row = options.filter(has_text="Keep what stopped it")
    await expect(row.locator("code")).to_have_text("include_stop_str_in_output")
    field = row.get_by_role("combobox", name="Keep what stopped it", exact=True)
    described = (
        "Whether what ended an answer, a stop string or a stop token with a text, stays at its end."
    )
    await expect(field).to_have_accessible_description(f"{described} include_stop_str_in_output")
    few = page.get_by_label("Min tokens", exact=True)
    await expect(few).to_have_accessible_description(re.compile("At most “Max tokens”."))
    await expect(page.locator(".options h4")).to_have_text(list(GROUPS.values()))
    for text in await options.locator("label > span, .note").all_inner_texts():
        assert not re.search(r"`|\b(None|True|False|dictionary)\b", text), text


async def test_an_option_is_found_by_any_of_its_names(page: Page, api: ScriptedApi) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_text("More options").click()
    shown = page.locator(".option:visible code")
    everything = await shown.count()
    find = page.get_by_label("Find an option")
    for text, names in (
        ("ignore_e", ["ignore_eos"]),
        ("Stop strings", ["stop"]),
        ("timing", ["cache_salt"]),
        ("nowhere", []),
    ):
        await find.fill(text)
        await expect(shown).to_have_text(names)
    await expect(page.locator("details.more")).to_contain_text("No other option has this")
    await find.fill("")
    await expect(shown).to_have_count(everything)
    await expect(page.locator(".options h4:visible")).to_have_count(7)


async def test_what_is_set_is_counted(page: Page, api: ScriptedApi) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_text("More options").click()
    await page.get_by_label("Top-k", exact=True).fill("7")
    await page.keyboard.press("Escape")
    await page.keyboard.press("Alt+KeyS")
    await expect(page.locator("details.more > summary")).to_have_text("More options (1 set)")
    await page.get_by_label("In this one").check()
    await expect(page.locator("details.more > summary")).to_have_text("More options")
    top_k = page.get_by_label("Top-k", exact=True)
    await expect(top_k).to_be_visible()  # what was unfolded stays so
    await expect(top_k).to_have_attribute("placeholder", "7")


async def test_what_an_answer_took_is_told(page: Page, api: ScriptedApi) -> None:
    api.cached = 8
    await page.clock.set_fixed_time(1000)
    await ask(page, "held", wait=False)
    await expect(page.locator(".figures")).to_have_text(re.compile(r"^≈ 1 token"))
    await page.clock.set_fixed_time(1002.5)
    api.hold.set()
    await settled(page)
    text = await page.locator(".figures").inner_text()
    pattern = (
        r"3 tokens · \S+/s · first after 0 ms, last after 2\.5 s · prompt: 11 tokens, 8 cached"
    )
    assert re.fullmatch(pattern, text), text


async def test_a_quick_answer_has_one_time(page: Page, api: ScriptedApi) -> None:
    """Nobody sees two moments within a second."""
    await page.clock.set_fixed_time(1000)
    await ask(page, "hello")
    pattern = r"5 tokens · \S+/s · after 0 ms · prompt: 11 tokens"
    assert re.fullmatch(pattern, await page.locator(".figures").inner_text())


async def test_a_narrow_page_tells_first_what_is_asked_most(page: Page, api: ScriptedApi) -> None:
    await page.set_viewport_size({"width": 390, "height": 700})
    await ask(page, "hello")
    figures = page.locator(".figures")
    short = figures.get_by_role("button")
    assert re.fullmatch(r"5 tokens · \S+/s", await figures.inner_text())
    await expect(short).to_have_attribute("aria-expanded", "false")
    await short.focus()
    await page.keyboard.press("Enter")
    await expect(short).to_have_attribute("aria-expanded", "true")
    await expect(figures.locator("span").last).to_be_visible()
    assert "prompt: 11 tokens" in await figures.inner_text()
    await page.keyboard.press("Alt+KeyN")
    await page.locator("body").press("Alt+ArrowDown")
    await short.click()
    await expect(figures.locator("span").last).to_be_visible()
    await page.set_viewport_size({"width": 1200, "height": 700})
    await expect(short).to_be_hidden()
    await expect(figures.locator(".first")).to_be_visible()


async def test_the_probabilities_of_tokens_are_shown(page: Page, api: ScriptedApi) -> None:
    await ask(page, "without")
    assert "logprobs" not in api.last
    await expect(page.get_by_role("button", name="Probabilities")).to_have_count(0)
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Ask for the probability").check()
    await page.keyboard.press("Escape")
    await ask(page, "with")
    assert (api.last["logprobs"], api.last["top_logprobs"]) == (True, 5)
    await reload(page)
    await page.locator("#sidebar .title").first.click()
    answer = answers(page).last
    await answer.get_by_role("button", name="Probabilities").click()
    await expect(answer.locator(".prose").last).to_be_hidden()
    tokens = answer.locator(".tokens .text > .token")
    await expect(tokens).to_have_text(["You ", "said: ", "with", "."])
    await expect(tokens.first).to_have_class(re.compile("open"))
    await tokens.nth(1).hover()
    card = answer.locator(".alternatives")
    await expect(card.locator("li")).to_have_text(["said:·50.0 %", "other·25.0 %"])
    await page.locator("#title").hover()
    await expect(card).to_be_hidden()
    await answer.locator(".tokens").focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    await expect(card.locator("li.taken")).to_have_text("with50.0 %")
    await answer.get_by_role("button", name="Probabilities").click()
    await expect(answer.locator(".prose").last).to_be_visible()
    await expect(answer.locator(".tokens")).to_be_hidden()


async def test_a_conversation_may_leave_an_option_to_the_model(
    page: Page, api: ScriptedApi
) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Temperature", exact=True).fill("0.2")
    await page.get_by_text("In this one", exact=True).click()
    temperature = page.get_by_label("Temperature", exact=True)
    await page.get_by_label("The model’s own", exact=True).check()
    await expect(temperature).to_be_disabled()
    await page.keyboard.press("Escape")
    await ask(page, "hello")
    assert "temperature" not in api.last
    await reload(page)
    await page.locator("#model option").first.wait_for(state="attached")
    await page.keyboard.press("Alt+KeyS")
    await expect(temperature).to_be_disabled()
    await page.get_by_label("The model’s own", exact=True).uncheck()
    await expect(temperature).to_be_enabled()
    await page.keyboard.press("Escape")
    await ask(page, "again")
    assert api.last["temperature"] == 0.2
