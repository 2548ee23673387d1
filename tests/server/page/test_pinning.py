"""Conversations that are pinned stand above the others, in all tabs, and wherever they are taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import ask, reload
from tests.server.page.test_tabs import DEAF, open_first, other

__all__ = ["other"]

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def begin(page: Page, *texts: str) -> None:
    for text in texts:
        await page.keyboard.press("Alt+KeyN")
        await ask(page, text)


async def pin(page: Page, title: str, deed: str = "Pin") -> None:
    await page.locator(".conversations li", has_text=title).hover()
    await page.get_by_role("button", name=f"{deed} {title}", exact=True).click()


async def expect_list(page: Page, *titles: str) -> None:
    await expect(page.locator("#sidebar .title")).to_have_text(list(titles))


async def test_pinned_conversations_stand_above(page: Page) -> None:
    await begin(page, "one", "two", "three")
    await pin(page, "one")
    await expect_list(page, "one", "three", "two")
    await expect(page.locator(".conversations h2")).to_have_text(["Pinned", "Today"])
    await expect(page.get_by_role("button", name="Unpin one")).to_be_focused()
    await expect(page.locator("#announcer")).to_have_text("“one” is pinned.")
    await pin(page, "two")
    await expect_list(page, "two", "one", "three")  # the latest first, as in every group
    await begin(page, "four")
    await expect_list(page, "two", "one", "four", "three")
    await reload(page)
    await expect_list(page, "two", "one", "four", "three")
    await pin(page, "two", "Unpin")
    await expect_list(page, "one", "four", "three", "two")


async def test_the_keys_follow_the_list(page: Page) -> None:
    await begin(page, "one", "two", "three")
    await pin(page, "one")
    await page.locator("#sidebar .title", has_text="three").click()
    for key, title in (("ArrowUp", "one"), ("ArrowDown", "three"), ("ArrowDown", "two")):
        await page.keyboard.press(f"Alt+{key}")
        await expect(page.locator("#title")).to_have_text(title)


async def test_all_tabs_have_the_same_pinned(page: Page, other: Page) -> None:
    await begin(page, "one", "two")
    await expect_list(other, "two", "one")
    await pin(page, "one")
    await expect_list(other, "one", "two")
    await pin(other, "one", "Unpin")
    await expect_list(page, "two", "one")


async def test_a_tab_that_hears_nothing_unpins_nothing(page: Page, other: Page) -> None:
    await begin(page, "one", "two")
    await other.add_init_script(DEAF)
    await reload(other)
    await pin(page, "one")
    await other.locator("#sidebar .title", has_text="one").click()
    await other.locator("article").first.wait_for()
    await ask(other, "more")
    await expect(other.locator(".conversations h2").first).to_have_text("Pinned")
    await reload(page)
    await expect_list(page, "one", "two")
    await expect(page.locator(".conversations h2").first).to_have_text("Pinned")


async def test_a_deletion_that_is_undone_leaves_it_pinned(page: Page) -> None:
    await begin(page, "one", "two")
    await pin(page, "one")
    await page.get_by_role("button", name="Delete one").click()
    await expect_list(page, "two")
    await page.get_by_role("button", name="Undo").click()
    await expect_list(page, "one", "two")
    await expect(page.locator(".conversations h2").first).to_have_text("Pinned")


async def test_it_is_exported_and_imported(page: Page, tmp_path: Path) -> None:
    await begin(page, "one", "two")
    await pin(page, "one")
    await page.keyboard.press("Alt+KeyS")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Export all").click()
    file = tmp_path / "all.json"
    await (await saved.value).save_as(file)
    kept = json.loads(file.read_text())["conversations"]
    assert {one["title"]: one["pinned"] for one in kept} == {"one": True, "two": False}
    await page.get_by_role("button", name="Delete all").click()
    await page.locator("dialog.small").get_by_role("button", name="Delete all").click()
    await expect_list(page)
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Import").click()
    await (await chooser.value).set_files(file)
    await expect_list(page, "one", "two")
    await expect(page.locator(".conversations h2").first).to_have_text("Pinned")


async def test_conversations_of_an_earlier_page_are_not_pinned(page: Page) -> None:
    await begin(page, "one", "two")
    await page.evaluate(
        """async () => {
          const { openStore } = await import("/page/js/store.js");
          const store = await openStore();
          for (const { pinned, ...kept } of await store.conversations()) await store.restore(kept);
        }"""
    )
    await reload(page)
    await open_first(page)
    await expect(page.locator(".conversations h2")).to_have_text(["Today"])
    await pin(page, "one")
    await expect_list(page, "one", "two")
