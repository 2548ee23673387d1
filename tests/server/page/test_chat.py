"""The page in a browser: what is asked and answered."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.polling import eventually
from tests.server.page.actions import (
    answers,
    ask,
    composer,
    messages_sent,
    questions,
    reload,
    settled,
)
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_answer_streams_and_its_pace_is_shown(page: Page, api: ScriptedApi) -> None:
    await ask(page, "held", wait=False)
    await expect(answers(page).locator(".prose").last).to_have_text("Before.")
    await expect(answers(page)).to_have_attribute("aria-busy", "true")
    api.hold.set()
    await settled(page)
    await expect(answers(page).locator(".prose").last).to_have_text("Before. After.")
    await expect(answers(page)).to_have_attribute("aria-busy", "false")
    await expect(page.locator(".figures")).to_contain_text("3 tokens · ")
    await expect(page.locator(".figures")).to_contain_text("prompt: 11 tokens")
    assert api.last == {
        "messages": [{"role": "user", "content": "held"}],
        "model": "scripted",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_conversation_is_sent_whole(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await ask(page, "two")
    assert messages_sent(api) == [
        ("user", "one"),
        ("assistant", "You said: one."),
        ("user", "two"),
    ]


@pytest.mark.parametrize("way", ["Escape", "button"])
async def test_stop(page: Page, api: ScriptedApi, way: str) -> None:
    await ask(page, "endless", wait=False)
    await expect(answers(page).locator(".prose").last).to_contain_text("3 ")
    if way == "Escape":
        await page.keyboard.press("Escape")
    else:
        await page.get_by_role("button", name="Stop the answer").click()
    await settled(page)
    await expect(page.locator(".note", has_text="Stopped.")).to_be_visible()
    await eventually(lambda: api.aborted == 1)
    text = await answers(page).inner_text()
    await page.wait_for_timeout(100)  # in which ten more words would come
    assert await answers(page).inner_text() == text
    await ask(page, "on")
    assert messages_sent(api)[1][1].startswith("0 1 2 3")


async def test_retry_makes_a_branch(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await page.get_by_role("button", name="Retry").click()
    await settled(page)
    assert len(api.bodies) == 2
    assert api.bodies[0] == api.bodies[1]
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    await page.get_by_role("button", name="Earlier version").click()
    await expect(page.get_by_label("Version 1 of 2")).to_be_visible()
    await expect(page.get_by_role("button", name="Earlier version")).to_be_disabled()


async def test_an_edit_is_a_branch_and_both_are_kept(page: Page, api: ScriptedApi) -> None:
    await ask(page, "first")
    await ask(page, "below")
    await page.get_by_label("You").first.hover()
    await page.get_by_label("You").first.get_by_role("button", name="Edit").click()
    field = page.get_by_role("textbox", name="Edit the message")
    await expect(field).to_be_focused()
    await expect(field).to_have_value("first")
    await field.fill("other")
    await field.press("Enter")
    await settled(page)
    await expect(questions(page)).to_have_text(["other"])
    assert messages_sent(api) == [("user", "other")]
    await page.get_by_role("button", name="Earlier version").click()
    await expect(questions(page)).to_have_text(["first", "below"])
    await ask(page, "more")
    assert [text for _, text in messages_sent(api)][::2] == ["first", "below", "more"]


async def test_an_edit_can_be_left(page: Page, api: ScriptedApi) -> None:
    await ask(page, "first")
    await composer(page).press("ArrowUp")
    field = page.get_by_role("textbox", name="Edit the message")
    await field.fill("changed")
    await field.press("Escape")
    await expect(questions(page)).to_have_text(["first"])
    assert len(api.bodies) == 1


async def test_thoughts_are_folded(page: Page, api: ScriptedApi) -> None:
    await ask(page, "think")
    thought = page.locator(".thought")
    await expect(thought.locator("summary")).to_have_text("Thought for a moment")
    await expect(thought.locator(".prose")).to_be_hidden()
    await thought.locator("summary").click()
    await expect(thought.locator("strong")).to_have_text("two")
    await ask(page, "and?")
    sent = api.last["messages"][1]
    assert sent["content"] == "It is four."
    assert sent["reasoning_content"] == "Let me see: **two**."


async def test_tools_are_sent_and_their_calls_and_results_shown(
    page: Page, api: ScriptedApi
) -> None:
    await page.keyboard.press("Alt+KeyS")
    tools = page.get_by_label("Functions")
    await tools.fill("[{]")
    await expect(page.locator("dialog .problem")).to_contain_text("no JSON")
    await tools.fill('[{"name": "get_weather", "parameters": {"type": "object"}}]')
    await expect(page.locator("dialog").get_by_text("1 tool.")).to_be_visible()
    await page.keyboard.press("Escape")
    await ask(page, "weather")
    function = {"name": "get_weather", "parameters": {"type": "object"}}
    assert api.last["tools"] == [{"type": "function", "function": function}]
    await expect(page.locator(".call summary")).to_have_text(
        ["Calls get_weather", "Calls get_time"]
    )
    await expect(page.locator(".call pre").first).to_have_text('{ "city": "Oslo" }')
    await page.get_by_label("Result of get_weather").fill("rain")
    await page.get_by_label("Result of get_time").fill("noon")
    await page.get_by_role("button", name="Send results").click()
    await settled(page)
    await expect(page.locator(".result summary")).to_have_text(
        ["Result of get_weather", "Result of get_time"]
    )
    assert api.last["messages"][1]["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
    }
    assert api.last["messages"][2:] == [
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "tool", "content": "noon", "tool_call_id": "c2"},
    ]


async def test_settings_go_with_the_request(page: Page, api: ScriptedApi) -> None:
    await page.get_by_label("Model", exact=True).select_option("pirate")
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Of this conversation").fill("Be brief.")
    await page.get_by_label("Temperature").fill("0.5")
    await page.get_by_label("Top-p").fill("0.9")
    await page.get_by_label("Max tokens").fill("64")
    await page.get_by_label("Seed").fill("7")
    await page.get_by_role("combobox", name="Thinking", exact=True).select_option("Off")
    await page.keyboard.press("Escape")
    await ask(page, "hello")
    assert api.last == {
        "model": "pirate",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 7,
        "enable_thinking": False,
    }
    await page.keyboard.press("Alt+KeyN")
    await reload(page)
    await ask(page, "again")
    assert api.last["temperature"] == 0.5
    assert [message["role"] for message in api.last["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("fail", "The prompt is too long: 9000 tokens of 2048."),
        ("busy", "The queue is full. Try again in 7 s."),
        ("break", "The engine died."),
        ("cut", "The connection ended before the answer did."),
        ("killed", "The connection ended before the answer did."),
    ],
)
async def test_errors_are_told_in_the_servers_words(
    page: Page, api: ScriptedApi, asked: str, told: str
) -> None:
    await ask(page, asked, wait=False)
    if asked in ("break", "cut", "killed"):
        await expect(answers(page)).to_contain_text(f"You said: {asked}")
    api.hold.set()
    await expect(page.locator(".assistant .problem")).to_have_text(told)
    await expect(page.get_by_role("button", name="Retry")).to_be_visible()
    if asked in ("break", "cut", "killed"):
        await expect(answers(page)).to_contain_text(f"You said: {asked}.")


@pytest.mark.parametrize("asked", ["fail", "busy"])
async def test_a_refused_question_leaves_the_path(page: Page, api: ScriptedApi, asked: str) -> None:
    await ask(page, "one")
    await ask(page, asked)
    await expect(page.locator(".assistant .problem")).to_be_visible()  # to be read, and edited
    await expect(page.get_by_text("Later questions go without this one.")).to_be_visible()
    await ask(page, "two")
    said = [("user", "one"), ("assistant", "You said: one."), ("user", "two")]
    assert messages_sent(api) == said
    await expect(questions(page)).to_have_text(["one", asked, "two"])
    await reload(page)
    await page.locator("#sidebar .title").click()
    await ask(page, "three")
    said += [("assistant", "You said: two."), ("user", "three")]
    assert messages_sent(api) == said


async def test_a_first_question_that_was_refused_leaves_the_path(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "fail")
    await ask(page, "two")
    assert messages_sent(api) == [("user", "two")]


async def test_a_question_stopped_before_its_answer_leaves_the_path(
    page: Page, api: ScriptedApi
) -> None:
    await page.route("**/v1/chat/completions", lambda route: None)
    await ask(page, "one", wait=False)
    await page.keyboard.press("Escape")
    await settled(page)
    await page.unroute_all(behavior="ignoreErrors")
    await ask(page, "two")
    assert messages_sent(api) == [("user", "two")]


async def test_a_model_that_is_not_served_any_more_leaves_the_list(
    page: Page, api: ScriptedApi
) -> None:
    await page.get_by_label("Model", exact=True).select_option("pirate")
    api.models = [{"id": "newer", "parent": None}]
    await ask(page, "hello")
    await expect(page.locator(".assistant .problem")).to_contain_text("'pirate' does not exist")
    await expect(page.locator("#model option")).to_have_text(["newer"])
    await page.get_by_role("button", name="Retry").click()
    await settled(page)
    assert api.last["model"] == "newer"


async def test_blanks_at_a_questions_beginning_are_kept(page: Page, api: ScriptedApi) -> None:
    await ask(page, "    return 1\n  # why?\n\n")
    assert messages_sent(api) == [("user", "    return 1\n  # why?")]
    assert await questions(page).text_content() == "    return 1\n  # why?"


async def test_a_server_that_is_gone(page: Page, api: ScriptedApi) -> None:
    await page.route("**/v1/chat/completions", lambda route: route.abort())
    await ask(page, "hello")
    await expect(page.locator(".problem")).to_contain_text("cannot be reached")


async def test_a_server_that_is_loading_is_waited_for(page: Page, api: ScriptedApi) -> None:
    api.loading = True
    await page.reload()
    await expect(page.locator("#notices")).to_contain_text("The model is being loaded.")
    await expect(page.locator("#model")).to_be_hidden()
    api.loading = False
    await expect(page.locator("#model")).to_be_visible()
    await expect(page.locator(".notice")).to_have_count(0)
    await ask(page, "hello")
    assert api.last["model"] == "scripted"


async def test_a_limit_is_told(page: Page, api: ScriptedApi) -> None:
    await ask(page, "length")
    await expect(page.locator(".note", has_text="the limit of tokens")).to_be_visible()


async def test_the_key_is_asked_for_and_kept_for_the_tab_alone(
    page: Page, api: ScriptedApi
) -> None:
    api.key = "right"
    await ask(page, "hello", wait=False)
    field = page.get_by_label("API key", exact=True).and_(page.locator("input"))
    await field.fill("wrong")
    await field.press("Enter")
    await expect(page.locator("dialog .problem")).to_have_text("The server does not know this key.")
    await field.fill("right")
    await field.press("Enter")
    await settled(page)
    await expect(answers(page)).to_contain_text("You said: hello.")
    await reload(page)
    await ask(page, "again")
    assert len(api.bodies) == 2
    assert await page.evaluate("JSON.stringify(localStorage).includes('right')") is False
    other = await page.context.new_page()
    await other.goto(api.url)
    await expect(other.get_by_text("This server asks for an API key.")).to_be_visible()


async def test_without_a_key_the_error_is_told(page: Page, api: ScriptedApi) -> None:
    api.key = "right"
    await ask(page, "hello", wait=False)
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator(".assistant .problem")).to_contain_text("No API key")


async def test_answers_under_way_go_on_in_other_conversations(page: Page, api: ScriptedApi) -> None:
    await ask(page, "held", wait=False)
    await expect(answers(page).locator(".prose").last).to_have_text("Before.")
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "beside")
    await expect(page.locator(".running")).to_have_count(1)
    api.hold.set()
    await expect(page.locator(".running")).to_have_count(0)
    await page.locator("#sidebar").get_by_role("link", name="held", exact=True).click()
    await expect(answers(page).locator(".prose").last).to_have_text("Before. After.")


async def test_the_welcome_names_the_model_that_is_chosen(page: Page, api: ScriptedApi) -> None:
    welcome = page.locator(".welcome")
    await expect(welcome).to_contain_text("You talk to scripted.")
    await page.locator("#model").select_option("pirate")
    await expect(welcome).to_contain_text("You talk to pirate.")
    await expect(page.locator("#model")).to_have_attribute("title", "pirate")


async def test_an_answer_names_its_model_where_that_has_changed(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "one")
    await ask(page, "two")
    await expect(page.locator(".author:visible")).to_have_count(0)
    await page.locator("#model").select_option("pirate")
    await ask(page, "three")
    await expect(page.locator(".author:visible")).to_have_text(["pirate"])
    await ask(page, "four")
    await expect(page.locator(".author:visible")).to_have_text(["pirate"])
    await page.locator("#model").select_option("scripted")
    await page.get_by_role("button", name="Retry").last.click()
    await settled(page)
    await expect(page.locator(".author:visible")).to_have_text(["pirate", "scripted"])
    await page.get_by_role("button", name="Earlier version").click()
    await expect(page.locator(".author:visible")).to_have_text(["pirate", "pirate"])


async def test_an_answer_without_a_word_says_so(page: Page, api: ScriptedApi) -> None:
    api.answer = ""
    await ask(page, "hello")
    await expect(answers(page)).to_contain_text("The model answered nothing.")


async def test_a_full_context_is_told(page: Page, api: ScriptedApi) -> None:
    api.models = [{"id": "scripted", "parent": None, "max_model_len": 30}]
    await page.reload()
    await expect(page.locator("#model option")).to_have_count(1)
    fine = page.locator("#fine")
    await expect(fine).to_have_text("Models make mistakes. Check what matters.")
    await ask(page, "hello")  # 11 tokens, and 5 of the answer
    await expect(fine).to_have_text("The context is 53 % full: 16 of 30 tokens.")
    await page.keyboard.press("Alt+KeyN")
    await expect(fine).to_have_text("Models make mistakes. Check what matters.")
