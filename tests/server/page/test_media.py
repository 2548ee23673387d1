"""Images, sounds and videos: attached in each way, shown, sent as data."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Page, expect

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
    carried.items.add(new File([new Uint8Array(40000)], name, { type: "image/png" }));
  }
  document.documentElement.dispatchEvent(
    new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
  );
})"""


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def give(page: Page, name: str, kind: str, content: bytes, event: str) -> None:
    await page.evaluate(GIVE, [name, kind, encoded(content), event])


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
    assert await page.locator("article.user img").first.evaluate("(e) => e.naturalWidth") == 40
    for kind, width in (("audio", 250), ("video", 150)):
        box = await page.locator(f"article.user {kind}").bounding_box()
        assert box
        assert box["width"] > width


async def test_files_keep_the_order_they_were_given_in(page: Page, api: ScriptedApi) -> None:
    names = [f"{place}.png" for place in range(6)]
    await page.evaluate(DROP_IN_TURN, [names[:4], names[4:5], names[5:]])
    await ask(page, "What are these?")  # at once: what is still on its way belongs to it
    shown = page.locator("article.user img")
    assert await shown.evaluate_all("(all) => all.map((e) => e.alt)") == names
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
