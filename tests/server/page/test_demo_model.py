"""The page over quire's own server, with the demo model on NativeEngine."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.server.page.actions import answers, ask, composer, settled
from tests.server.page.conftest import opened
from tests.server.serving import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_conversation_with_the_demo_model(browser: Browser, served: Served) -> None:
    complaints: list[str] = []
    async with opened(browser, served.url, complaints) as page:
        models = await page.locator("#model option").all_inner_texts()
        assert models == [model.name for model in served.service.models.served()]
        await page.keyboard.press("Alt+KeyS")
        await page.get_by_label("Temperature").fill("0")
        await page.get_by_label("Max tokens").fill("40")
        await page.keyboard.press("Escape")
        await ask(page, "Hello! Who are you?")
        first = await answers(page).locator(".prose").last.inner_text()
        assert len(first) > 5
        await expect(page.locator(".figures")).to_contain_text("prompt: ")
        await page.get_by_label("Model", exact=True).select_option(models[1])
        await page.get_by_role("button", name="Retry").click()
        await settled(page)
        assert await answers(page).locator(".prose").last.inner_text() != first
        await page.get_by_label("Model", exact=True).select_option(models[0])
        await page.get_by_role("button", name="Retry").click()
        await settled(page)
        assert await answers(page).locator(".prose").last.inner_text() == first
    assert complaints == []


async def test_an_answer_that_was_cut_goes_on(browser: Browser, served: Served) -> None:
    complaints: list[str] = []
    async with opened(browser, served.url, complaints) as page:
        await page.keyboard.press("Alt+KeyS")
        await page.get_by_label("Temperature").fill("0")
        await page.get_by_label("Max tokens").fill("6")
        await page.keyboard.press("Escape")
        await ask(page, "Hello! Who are you?")
        begun = await answers(page).locator(".prose").last.inner_text()
        for _ in range(2):
            await page.get_by_role("button", name="Continue", exact=True).click()
            await settled(page)
        whole = await answers(page).locator(".prose").last.inner_text()
        await expect(page.locator(".figures")).to_contain_text("18 tokens ")
        await expect(page.locator(".problem")).to_have_count(0)
        assert whole.startswith(begun)
        assert len(whole) > len(begun)
    assert complaints == []


async def test_the_servers_own_errors_are_told(browser: Browser, served: Served) -> None:
    complaints: list[str] = []
    async with opened(browser, served.url, complaints) as page:
        await page.keyboard.press("Alt+KeyS")
        await page.get_by_label("Max tokens").fill("40")
        await page.keyboard.press("Escape")
        await composer(page).fill("word " * 20_000)
        await composer(page).press("Enter")
        await settled(page)
        await expect(page.locator(".assistant .problem")).to_contain_text("token")
    assert complaints == []
