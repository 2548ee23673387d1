"""Images, sounds and videos: attached in each way, shown, sent as data."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Page, Route, expect

from tests.server.page.actions import answers, ask, composer, reload, settled
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")


def picture(colour: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(held, "PNG")
    return held.getvalue()


RED, BLUE = picture("red"), picture("blue")
SOUND = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"

GIVE = """([name, type, data, event]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  const target = document.getElementById("composer-text");
  if (event === "paste") {
    target.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried, bubbles: true }));
  } else {
    for (const kind of ["dragenter", "dragover", "drop"]) {
      target.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
    }
  }
}"""

DROP_IN_TURN = """(drops) => drops.forEach((names) => {
  const carried = new DataTransfer();
  for (const name of names) {
    carried.items.add(new File([new Uint8Array(20000)], name, { type: "image/png" }));
  }
  document.documentElement.dispatchEvent(
    new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
  );
})"""


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def give(page: Page, name: str, kind: str, content: bytes, event: str) -> None:
    await page.evaluate(GIVE, [name, kind, encoded(content), event])


PASTE = """([text, name]) => {
  const carried = new DataTransfer();
  carried.setData("text/plain", text);
  carried.items.add(new File([new Uint8Array(9)], name, { type: "image/png" }));
  const pasted = { clipboardData: carried, bubbles: true, cancelable: true };
  return document.getElementById("composer-text").dispatchEvent(new ClipboardEvent("paste", pasted));
}"""


async def choose(page: Page, *files: tuple[str, str, bytes]) -> None:
    """Attach by the button."""
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Attach files").click()
    given: Any = [
        {"name": name, "mimeType": kind, "buffer": content} for name, kind, content in files
    ]
    await (await chooser.value).set_files(given)


async def test_media_attached_in_each_way_are_sent_as_data(page: Page, api: ScriptedApi) -> None:
    await choose(page, ("red.png", "image/png", RED), ("blue.png", "image/png", BLUE))
    await give(page, "tone.wav", "audio/wav", SOUND, "paste")
    await give(page, "clip.mp4", "video/mp4", b"clip", "drop")
    await expect(page.locator("#composer .chip")).to_have_count(4)
    await ask(page, "What is this?")
    await expect(page.locator("#composer .chip")).to_have_count(0)
    assert api.last["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(RED)}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(BLUE)}"}},
        {"type": "input_audio", "input_audio": {"data": encoded(SOUND), "format": "wav"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded(b'clip')}"}},
        {"type": "text", "text": "What is this?"},
    ]
    await expect(page.locator("article.user img")).to_have_count(2)
    await expect(page.locator("article.user img").first).to_have_js_property("naturalWidth", 40)
    for kind, width in (("audio", 250), ("video", 150)):
        box = await page.locator(f"article.user {kind}").bounding_box()
        assert box
        assert box["width"] > width


async def test_files_keep_the_order_they_were_given_in(page: Page, api: ScriptedApi) -> None:
    names = [f"{place}.png" for place in range(6)]
    await page.evaluate(DROP_IN_TURN, [names[:4], names[4:5], names[5:]])
    await ask(page, "What are these?")  # at once: what is still on its way belongs to it
    await expect(page.locator("article.user .file b")).to_have_text(names)
    assert len(api.last["messages"][0]["content"]) == 7


async def test_a_file_alone_is_a_message_and_can_be_taken_back(
    page: Page, api: ScriptedApi
) -> None:
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    await choose(page, ("red.png", "image/png", RED), ("blue.png", "image/png", BLUE))
    await page.get_by_role("button", name="Remove red.png").click()
    await page.get_by_role("button", name="Send").click()
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert [part["type"] for part in api.last["messages"][0]["content"]] == ["image_url"]
    await expect(page.locator("#title")).to_have_text("blue.png")


async def test_a_sound_without_a_type_is_known_by_its_name(page: Page, api: ScriptedApi) -> None:
    await give(page, "tone.mp3", "", b"sound", "drop")
    await expect(page.locator("#composer .chip")).to_have_count(1)
    await ask(page, "Hm?")
    sound = {"data": encoded(b"sound"), "format": "mp3"}
    assert api.last["messages"][0]["content"][0] == {"type": "input_audio", "input_audio": sound}


async def test_an_edit_keeps_or_drops_files(page: Page, api: ScriptedApi) -> None:
    await choose(page, ("red.png", "image/png", RED), ("blue.png", "image/png", BLUE))
    await ask(page, "Which?")
    await composer(page).press("ArrowUp")
    await page.locator(".editor").get_by_role("button", name="Remove blue.png").click()
    await page.locator(".editor textarea").press("Enter")
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    await settled(page)
    parts = api.last["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[0]["image_url"]["url"].endswith(encoded(RED))


async def test_files_outlive_a_reload_and_travel_with_an_export(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await choose(page, ("red.png", "image/png", RED))
    await ask(page, "Which?")
    await page.keyboard.press("Alt+KeyS")
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export all").click()
    saved = tmp_path / "conversations.json"
    await (await download.value).save_as(saved)
    await page.get_by_role("button", name="Delete all").click()
    await page.locator("dialog.small").get_by_role("button", name="Delete all").click()
    await expect(page.locator(".conversations li")).to_have_count(0)
    await page.get_by_label("File to import").set_input_files(saved)
    await expect(page.get_by_role("dialog")).to_contain_text("1 conversation imported.")
    await reload(page)
    await page.locator("#sidebar .title").click()
    await expect(page.locator("article.user img")).to_be_visible()
    await ask(page, "And now?")
    url = api.last["messages"][0]["content"][0]["image_url"]["url"]
    assert url == f"data:image/png;base64,{encoded(RED)}"


def filled(name: str, size: int) -> tuple[str, str, bytes]:
    """A picture with data after its end, of about 4/3 of its size in a request."""
    return name, "image/png", RED + b"0" * (size - len(RED))


async def test_files_are_too_much_together(page: Page, api: ScriptedApi) -> None:
    """The server of the tests takes 200 kB in a request."""
    told = page.locator("#composer > .excess")
    await choose(page, filled("one.png", 60_000), filled("two.png", 60_000))
    await expect(page.locator("#composer .chip")).to_have_count(2)
    await expect(told).to_be_hidden()
    await choose(page, filled("three.png", 60_000), ("small.png", "image/png", BLUE))
    chips = page.locator("#composer .chip")
    await expect(chips.filter(has_text="Too much")).to_have_count(1)
    await expect(chips.filter(has_text="Too much")).to_contain_text("three.png")
    await expect(told).to_have_text(
        "These files take 240 kB in a request: the server takes at most 200 kB."
    )
    await composer(page).fill("What are these?")
    await composer(page).press("Enter")
    await expect(page.locator(".notice")).to_contain_text("These files take 240 kB")
    await expect(composer(page)).to_have_value("What are these?")
    await expect(chips).to_have_count(4)
    assert api.bodies == []
    await page.get_by_role("button", name="Remove three.png").click()
    await expect(told).to_be_hidden()
    await composer(page).press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert len(api.last["messages"][0]["content"]) == 4


async def test_files_are_too_much_beside_those_of_the_conversation(
    page: Page, api: ScriptedApi
) -> None:
    await choose(page, filled("one.png", 90_000))
    await ask(page, "First?")
    await choose(page, filled("two.png", 90_000))
    told = page.locator(".excess:visible")
    await expect(told).to_have_text(
        "These files take 120 kB in a request beside the 124 kB of this conversation: the server "
        "takes at most 200 kB."
    )
    await page.get_by_role("button", name="Remove two.png").click()
    await expect(told).to_be_hidden()
    # An edit takes the place of what it edits.
    await composer(page).press("ArrowUp")
    await expect(page.locator(".editor .chip")).to_have_count(1)
    await expect(told).to_be_hidden()


async def test_a_request_that_is_too_large_is_not_sent_and_can_be_edited(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "a b " * 60_000)
    await expect(answers(page).get_by_role("alert")).to_have_text(
        re.compile(r"^This request has 240 kB, and the server takes 200 kB \(max_body_bytes\)\.")
    )
    assert api.bodies == []
    await page.get_by_label("You").get_by_role("button", name="Edit").click()
    edited = page.get_by_role("textbox", name="Edit the message")
    assert len(await edited.input_value()) == 240_000
    await edited.fill("less")
    await edited.press("Enter")
    await settled(page)
    await expect(answers(page)).to_contain_text("You said: less.")


async def test_a_proxy_that_takes_less_is_named(
    page: Page, api: ScriptedApi, complaints: list[str]
) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=413, content_type="text/html", body="<html>413</html>")

    await page.route("**/v1/chat/completions", refuse)
    await choose(page, filled("one.png", 60_000))
    await ask(page, "First?")
    await expect(answers(page).get_by_role("alert")).to_have_text(
        "This request has 80 kB: a proxy before the server takes less at once."
    )
    await expect(page.locator("article.user img")).to_be_visible()  # nothing is lost


async def test_a_picture_that_the_browser_cannot_show_is_still_named(
    page: Page, api: ScriptedApi
) -> None:
    await choose(page, ("odd.png", "image/png", b"no picture"))
    await expect(page.locator("#composer .chip-sign .icon")).to_be_visible()
    await ask(page, "What?")
    await expect(page.locator("article.user .chip")).to_contain_text("odd.png")
    await expect(page.locator("article.user img")).to_have_count(0)


async def test_a_copied_text_with_a_picture_of_it_is_pasted_as_text(
    page: Page, api: ScriptedApi
) -> None:
    """Office programs add such a picture; file managers add the names of copied files."""
    assert await page.evaluate(PASTE, ["a\tb\n1\t2\n", "image.png"])  # left to the browser
    await expect(page.locator("#composer .chip")).to_have_count(0)
    assert not await page.evaluate(PASTE, ["file:///home/me/my%20cat.png\n", "my cat.png"])
    await expect(page.locator("#composer .chip")).to_have_count(1)
    assert not await page.evaluate(PASTE, ["", "image.png"])
    await expect(page.locator("#composer .chip")).to_have_count(2)
