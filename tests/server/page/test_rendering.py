"""Markdown of a model: safe, right, and quick however long it grows."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.async_api import Page, Request, expect

from quire.characters import harmless
from tests.properties import EVERY_CHECK
from tests.server.page.actions import answers, ask, composer, questions, settled
from tests.server.page.scripted_api import ATTACK, RICH, ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

READ_IN_PIECES = """async ([text, cuts]) => {
  const { Prose } = await import("/page/js/view/prose.js");
  const [grown, whole] = [new Prose(), new Prose()];
  for (const cut of cuts) grown.update(text.slice(0, cut));
  grown.update(text, true);
  whole.update(text, true);
  return [grown.element.innerHTML, whole.element.innerHTML];
}"""

READ_AS = """async (text) => {
  const { Prose } = await import("/page/js/view/prose.js");
  const prose = new Prose();
  prose.update(text, true);
  document.body.append(prose.element);
  const read = prose.element.{property};
  prose.element.remove();
  return read;
}"""
READ_AS_TEXT = READ_AS.replace("{property}", "innerText.trim()")
READ_AS_HTML = READ_AS.replace("{property}", "outerHTML")

READ_EVENTS = """async (pieces) => {
  const { readEvents } = await import("/page/js/sse.js");
  const bytes = pieces.map((piece) => Uint8Array.from(piece));
  const body = new ReadableStream({
    pull(controller) {
      if (bytes.length) controller.enqueue(bytes.shift());
      else controller.close();
    },
  });
  const events = [];
  for await (const data of readEvents(body)) events.push(data);
  return events;
}"""


async def test_an_attack_is_inert(page: Page, api: ScriptedApi) -> None:
    elsewhere: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((api.url, "data:", "blob:")):
            elsewhere.append(request.url)

    page.on("request", note)
    await ask(page, "attack")
    prose = answers(page).locator(".prose").last
    await expect(prose.locator("h1")).to_have_text("Hello")
    assert await page.evaluate("window.broken") is None
    assert (
        await prose.locator("script, img, iframe, svg:not(.icon), style, object, form").count() == 0
    )
    links = await prose.locator("a[href]").evaluate_all("all => all.map((a) => a.href)")
    assert links == ["https://elsewhere.invalid/pixel.png", "https://example.org/"]
    written = await prose.evaluate(
        "e => [...e.querySelectorAll('*')].flatMap((x) => x.getAttributeNames())"
    )
    assert not [name for name in written if name.startswith("on") or name == "style"]
    await expect(prose).to_contain_text("<script>window.broken = 1</script>")
    for link in await prose.locator("a[href]").all():
        assert await link.get_attribute("rel") == "noopener noreferrer"
    await page.mouse.click(600, 300)
    assert (await page.evaluate("window.broken"), elsewhere) == (None, [])


async def test_an_attack_of_the_user_is_plain_text(page: Page, api: ScriptedApi) -> None:
    await ask(page, ATTACK)
    await expect(questions(page)).to_have_text(ATTACK.strip(), use_inner_text=True)
    assert await questions(page).locator("*").count() == 0
    title = await page.locator("#sidebar .title").inner_text()
    assert title == "# Hello"
    assert await page.evaluate("window.broken") is None


async def test_the_policy_stops_what_would_get_through(
    page: Page, api: ScriptedApi, complaints: list[str]
) -> None:
    """The last fence by itself: markup in the page does not become a script."""
    refused = await page.evaluate("""() => {
      try {
        document.body.innerHTML = "<img src=x onerror='window.broken = 1'>";
        return null;
      } catch (error) {
        return error.name;
      }
    }""")
    assert refused == "TypeError"  # trusted types
    policy = await page.evaluate("""async () => {
      const script = document.createElement("img");
      const refused = new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (e) => resolve(e.effectiveDirective));
      });
      script.src = "https://elsewhere.invalid/pixel.png";
      return refused;
    }""")
    assert policy == "img-src"
    complaints.clear()


async def test_tables_code_and_late_references(page: Page, api: ScriptedApi) -> None:
    await ask(page, "rich")
    prose = answers(page).locator(".prose").last
    await expect(prose.locator("th").nth(1)).to_have_css("text-align", re.compile("right"))
    await expect(prose.locator(".code-bar")).to_contain_text("python")
    await expect(prose.locator("code .hljs-keyword").first).to_have_text("def")
    await expect(prose.get_by_role("link", name="the site")).to_have_attribute(
        "href", "https://example.org"
    )
    await prose.get_by_role("button", name="Copy").click()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == "def add(a: int, b: int) -> int:\n    return a + b  # simple\n"
    await answers(page).locator(".actions").get_by_role("button", name="Copy").click()
    assert await page.evaluate("navigator.clipboard.readText()") == RICH


async def test_code_stays_plain_where_its_grammar_cannot_be_loaded(
    page: Page, api: ScriptedApi
) -> None:
    await page.route("**/languages/python.min.js", lambda route: route.abort())
    await ask(page, "rich")
    await expect(answers(page).locator("pre code")).to_contain_text("def add(a: int")
    await expect(answers(page).locator(".hljs-keyword")).to_have_count(0)


async def test_a_long_answer_stays_smooth(page: Page, api: ScriptedApi) -> None:
    """Each frame draws the last block alone: old blocks are the very same elements at the end."""
    await page.evaluate("""() => {
      window.removed = 0;
      new MutationObserver((changes) => {
        for (const change of changes) window.removed += change.removedNodes.length;
      }).observe(document.getElementById("thread"), { childList: true, subtree: true });
    }""")
    await composer(page).fill("long")
    await composer(page).press("Enter")
    await expect(page.locator(".prose p")).to_have_count(750)
    first = await page.locator(".prose p").first.element_handle()
    api.hold.set()
    await settled(page)
    await expect(page.locator(".prose p")).to_have_count(1500)
    assert await first.evaluate("(e) => e.isConnected")
    assert await page.evaluate("window.removed") < 1500  # drawn whole each time: 100,000 and more
    away = await page.evaluate(
        "(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)"
        "(document.getElementById('thread'))"
    )
    assert away < 80


async def test_who_reads_above_is_not_pulled_down(page: Page, api: ScriptedApi) -> None:
    api.hold.set()
    await ask(page, "long")
    api.hold.clear()
    await ask(page, "held", wait=False)
    await expect(answers(page).last).to_contain_text("Before.")
    await page.locator("#thread").evaluate("(e) => e.scrollTo(0, 100)")
    await expect(page.locator("#jump")).to_be_visible()
    api.hold.set()
    await expect(answers(page).last).to_contain_text("After.")
    await page.wait_for_timeout(50)
    assert await page.locator("#thread").evaluate("(e) => e.scrollTop") == 100
    await page.locator("#jump").click()
    await expect(page.locator("#jump")).to_be_hidden()


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "word ", "*em* ", "**b", "** ", "`", "`code` ", "\n", "\n\n", "\r\n", "- item\n", "  - deep\n",
            "1. one\n", "> said\n", "```py\n", "```\n", "# Head\n", "===\n", "---\n", "| a | b |\n",
            "|---|--:|\n", "| 1 | 2 |\n", "[x](https://a.example) ", "[r] ", "[r]: https://b.example\n",
            "    code\n", "<b>", "&amp;", "![p](https://c.example/p.png)", "\\", "é🙂 ", "\t",
            "\\[", "\\]\n", "\\(", "\\) ", "$", "$$\n", "\\begin{a}", "\\end{a}\n", "| 1 | 2 | 3 |\n", "+ b\n",
        ]
    ),
    max_size=25,
).map("".join)  # fmt: skip


async def test_text_in_pieces_looks_as_the_whole_does(page: Page, api: ScriptedApi) -> None:
    cases_of = MARKDOWN.flatmap(
        lambda text: st.tuples(
            st.just(text), st.lists(st.integers(0, len(text)), max_size=12).map(sorted)
        )
    )
    cases: list[tuple[str, list[int]]] = []

    @settings(max_examples=200, deadline=None, suppress_health_check=EVERY_CHECK, database=None)
    @given(cases_of)
    def gather(case: tuple[str, list[int]]) -> None:
        cases.append(case)

    gather()
    for text, cuts in cases:
        grown, whole = await page.evaluate(READ_IN_PIECES, [text, cuts])
        assert grown == whole, json.dumps([text, cuts])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"so \(a_1 \{b\} *c* d*\), then", r"so \(a_1 \{b\} *c* d*\), then"),
        (r"\[ a \\ b \, c \]", r"\[ a \\ b \, c \]"),
        ("\\[\na \\\\\n- b\n  + c\n\\] *d*", "\\[\na \\\\\n- b\n  + c\n\\] d"),
        (r"$\{a\}_i *b* c*$ and $$\|x\| \\ y$$", r"$\{a\}_i *b* c*$ and $$\|x\| \\ y$$"),
        ("\\begin{a*}\n+ x\n\\end{a*}", "\\begin{a*}\n+ x\n\\end{a*}"),
        (r"it costs $5 *or* $6, \*not\*, a \) b", r"it costs $5 or $6, *not*, a \) b"),
        (r"`\(a\)` and \(a < b https://a.example", r"\(a\) and \(a < b https://a.example"),
    ],
)
async def test_the_text_of_a_formula_is_no_markdown(
    page: Page, api: ScriptedApi, text: str, shown: str
) -> None:
    assert await page.evaluate(READ_AS_TEXT, text) == shown


async def test_cells_beyond_the_heading_are_shown(page: Page, api: ScriptedApi) -> None:
    text = "| a | b |\n|---|---|\n| 1 | 2 | 3 | x\\|y |\n| 4 |\n"
    assert (await page.evaluate(READ_AS_TEXT, text)).split() == [
        "a",
        "b",
        "1",
        "2",
        "|",
        "3",
        "|",
        "x|y",
        "4",
    ]


async def test_what_is_nested_too_deep_is_shown_as_text(page: Page, api: ScriptedApi) -> None:
    assert "deep" in await page.evaluate(READ_AS_TEXT, "> " * 150 + "deep")


OVERRIDES = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


async def test_what_is_obeyed_is_shown_as_on_the_terminal(page: Page, api: ScriptedApi) -> None:
    """Each code point that either side might change, by the function of each."""
    codes = [*range(0x20, 0x3000), *range(0xFE00, 0xFFFF), 0x1F642, 0xE0041]
    shown = await page.evaluate(
        """async (codes) => {
          const { harmless } = await import("/page/js/harmless.js");
          return codes.map((code) => harmless(`a${String.fromCodePoint(code)}b`));
        }""",
        codes,
    )
    assert shown == [harmless(f"a{chr(code)}b") for code in codes]
    lone = (
        "() => import('/page/js/harmless.js').then(({ harmless }) => harmless('\\ud800a\\udc00'))"
    )
    assert await page.evaluate(lone) == "\ufffda\ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "see [https://good.example/\u202emoc.live](https://live.example)",
        "`rm \u2066x`",
        "```\nrm \u202ex\n```",
        "an entity: &#x202e;abc &#8238;",
        "a title: [x](https://a.example '\u202e')",
        "a link: https://a.example/%E2%80%AEabc",
        "# \u202dheading",
    ],
)
async def test_directions_are_not_obeyed_in_an_answer(
    page: Page, api: ScriptedApi, text: str
) -> None:
    html = await page.evaluate(READ_AS_HTML, text)
    assert not set(html) & set(OVERRIDES)
    assert "\ufffd" in html


async def test_directions_are_not_obeyed_elsewhere(page: Page, api: ScriptedApi) -> None:
    await ask(page, "a \u202equestion")
    await expect(questions(page)).to_have_text("a \ufffdquestion")
    await expect(page.locator("#title")).to_have_text("a \ufffdquestion")
    assert await page.title() == "a \ufffdquestion · quire"
    assert api.last["messages"][0]["content"] == "a \u202equestion"  # what is sent is not changed
    visible = await page.evaluate(
        "document.documentElement.innerText + [...document.querySelectorAll('[title], [aria-label]')]"
        ".map((e) => e.title + e.ariaLabel).join()"
    )
    assert not set(visible) & set(OVERRIDES)


async def test_each_text_runs_in_its_own_direction(page: Page, api: ScriptedApi) -> None:
    await ask(page, "שלום")
    right_to_left = "(e) => getComputedStyle(e).direction"
    for place in (questions(page), page.locator("#title"), page.locator("#sidebar .title span")):
        assert await place.evaluate(right_to_left) == "rtl"
    await composer(page).fill("مرحبا")
    assert await composer(page).evaluate(right_to_left) == "rtl"
    directions = await page.evaluate(
        """async (text) => {
          const { Prose } = await import("/page/js/view/prose.js");
          const prose = new Prose();
          document.body.append(prose.element);
          prose.update(text, true);
          const all = [...prose.element.querySelectorAll("p, li, pre, td")];
          const found = all.map((e) => getComputedStyle(e).direction);
          prose.element.remove();
          return found;
        }""",
        "שלום\n\nhello\n\n- שלום\n- hello\n\n> שלום\n> ```\n> code\n> ```\n\n|a|\n|-|\n|שלום|",
    )
    assert directions == ["rtl", "ltr", "rtl", "ltr", "rtl", "ltr", "rtl"]


async def test_events_in_any_pieces(page: Page, api: ScriptedApi) -> None:
    lines = [
        ": a comment", "", 'data: {"é": "🙂"}', "", "event: x", "id: 3", "data:one", "data: two",
        "", "", "data", "data: last", "", "data: never ended",
    ]  # fmt: skip
    for end, size in itertools.product(("\n", "\r\n", "\r"), (1, 2, 3, 7, 1000)):
        sent = end.join(lines).encode()
        pieces = [list(sent[at : at + size]) for at in range(0, len(sent), size)]
        told = await page.evaluate(READ_EVENTS, pieces)
        assert told == ['{"é": "🙂"}', "one\ntwo", "last"], (end, size)
