"""Formulas, drawn by KaTeX; footnotes, tasks and code without a name."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import answers, ask, settled
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_rendering import READ_AS_HTML, READ_AS_TEXT

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOWN = r"""Inline $x^2$ and \(\vec{v}\), $5 and $10, in a line: $$\sqrt{2}$$

\[
\left(\begin{matrix}a&b\\c&d\end{matrix}\right)
\]

\begin{align}
a&=b\\
c&=d
\end{align}
"""
DRAWN = """async (text) => {
  const { draw } = await import("/page/js/formulas.js");
  const { Prose } = await import("/page/js/view/prose.js");
  const prose = new Prose();
  prose.update(text, true);
  document.body.append(prose.element);
  await Promise.all([...prose.element.querySelectorAll(".math:not([data-source])")].map(draw));
  const drawn = [...prose.element.querySelectorAll(".math[data-source]")];
  const read = { sources: drawn.map((each) => each.dataset.source), text: prose.element.innerText };
  read.links = prose.element.querySelectorAll("a, img, [href], [src]").length;
  prose.element.remove();
  return read;
}"""


def katex_requests(page: Page) -> list[str]:
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if "/katex/" in one.url else None)
    return asked


async def test_all_spellings_are_drawn(page: Page, api: ScriptedApi) -> None:
    asked = katex_requests(page)
    await ask(page, "a question without a formula, for $5 and $10")
    assert asked == []
    api.answer = SHOWN
    await ask(page, "formulas")
    prose = answers(page).last.locator(".prose").last
    await expect(prose.locator(".math.inline > .katex")).to_have_count(2)
    await expect(prose.locator(".math.display > .katex-display")).to_have_count(3)
    await expect(prose).to_contain_text("$5 and $10")
    assert {url.rsplit("/", 1)[1].split(".", 1)[1] for url in asked} == {
        "min.js",
        "min.css",
        "woff2",
    }
    # An arrow whose width KaTeX sets by a style attribute, which the policy would not allow.
    arrow = prose.locator(".math.inline svg").first
    assert await arrow.evaluate("(e) => e.getBoundingClientRect().width") < 20
    assert await arrow.evaluate("(e) => e.style.width") != ""
    await answers(page).last.get_by_role("button", name="Copy").click()
    assert await page.evaluate("navigator.clipboard.readText()") == SHOWN


async def test_a_formula_is_drawn_once_it_is_closed(page: Page, api: ScriptedApi) -> None:
    read = """async (pieces) => {
      const { Prose } = await import("/page/js/view/prose.js");
      const prose = new Prose();
      document.body.append(prose.element);
      prose.update("$y$");
      while (!prose.element.querySelector(".katex")) await new Promise(requestAnimationFrame);
      const seen = [];
      for (const text of pieces) {
        prose.update(text);
        const [math] = prose.element.querySelectorAll(".math.display");
        seen.push(math ? "drawn" : prose.element.innerText.trim().at(-1));
      }
      prose.element.remove();
      return seen;
    }"""
    pieces = [r"\[", r"\[\frac1", r"\[\frac12\]", "\\[\\frac12\\]\n\nso"]
    assert await page.evaluate(read, pieces) == ["[", "1", "drawn", "drawn"]


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("$5 and $10, US$5-$10, more than $20.", []),
        ("it costs $5 for one and 6$ for two", []),
        ("$HOME/$USER and US$5 or A$6", []),
        ("so $n = 5$, and $5x + 1$; $2$.", ["$n = 5$", "$5x + 1$", "$2$"]),
        ("| a |\n|---|\n| $x$ |", ["$x$"]),
        ("> - $x$ and **\\(y\\)**", ["$x$", r"\(y\)"]),
        (r"$\foo{x}$ and $\frac{1$ and `$x$`", []),
        (r"$\def\a{aaaaaaaa}\a\a$ $\newcommand{\b}{\b\b}\b$", []),
        (r"$\href{javascript:alert(1)}{x}$ $\includegraphics{https://a.example/b.png}$", []),
        (r"$\htmlStyle{position:fixed}{x}$ $\url{javascript:x}$", []),
        ("$" + "{" * 2000 + "x" + "}" * 2000 + "$ and $" + "x^2" * 2000 + "$", []),
    ],
)
async def test_what_is_drawn_and_what_stays(
    page: Page, api: ScriptedApi, text: str, sources: list[str]
) -> None:
    read = await page.evaluate(DRAWN, text)
    assert read["sources"] == sources
    assert read["links"] == 0
    if not sources:
        assert read["text"].split() == text.replace("`", "").split()


async def test_a_formula_stays_in_its_place(page: Page, api: ScriptedApi) -> None:
    """However it is shifted, nothing of it is seen above or beside its answer."""
    api.answer = r"$\raisebox{900em}{A}\kern-900em\rule{900em}{900em}$"
    await ask(page, "shifted")
    await expect(answers(page).locator(".katex")).to_have_count(1)
    clipped = "(e) => getComputedStyle(e.closest('.prose')).overflow"
    assert await answers(page).locator(".math").evaluate(clipped) == "clip"
    height = "(e) => e.getBoundingClientRect().height"
    assert await answers(page).locator(".prose").last.evaluate(height) < 1000


async def test_formulas_stay_text_where_katex_cannot_be_loaded(
    page: Page, api: ScriptedApi
) -> None:
    await page.route("**/katex.min.js", lambda route: route.abort())
    api.answer = "see $x^2$."
    await ask(page, "no formulas")
    await expect(answers(page).locator(".prose").last).to_have_text("see $x^2$.")
    await page.unroute("**/katex.min.js")
    await ask(page, "again")
    await expect(answers(page).last.locator(".katex")).to_have_count(1)


async def test_a_selected_formula_is_copied_as_it_was_written(page: Page, api: ScriptedApi) -> None:
    api.answer = "so *that* $x^2$ is\n\n\\[y_1\\]\n\nthe end"
    await ask(page, "formulas")
    await expect(answers(page).locator(".katex")).to_have_count(2)
    copied = """async ([from, to]) => {
      const all = [...document.querySelectorAll("article .prose")].at(-1);
      getSelection().setBaseAndExtent(all.querySelector(from), 0, all.querySelector(to), 1);
      document.execCommand("copy");
      return navigator.clipboard.readText();
    }"""
    read = await page.evaluate(copied, ["em", "p:last-of-type"])
    assert read.split() == ["that", "$x^2$", "is", "\\[y_1\\]", "the", "end"]
    assert await page.evaluate(copied, [".katex-html", ".katex-html"]) == "$x^2$"


async def test_footnotes_tasks_and_guessed_code(page: Page, api: ScriptedApi) -> None:
    text = (
        "A claim[^1], one[^src] and `[^1]`, [^a-z].\n\n- [ ] open\n- [x] *done*\n- [y] plain\n\n"
        "[^1]: The *first*.\n[^src]: https://a.example"
    )
    read = await page.evaluate(READ_AS_TEXT, text)
    assert " ".join(read.split()) == (
        "A claim1, onesrc and [^1], [^a-z]. ☐ open ☑ done [y] plain 1The first. srchttps://a.example"
    )
    html = await page.evaluate(READ_AS_HTML, text)
    assert html.count('class="footnote"') == html.count('class="task"') == 2
    assert html.count("<a href") == 1
    api.answer = "```\ndef add(a):\n    return a\n```\n\n```\nsome plain words\n```\n"
    await ask(page, "code")
    await settled(page)
    await expect(answers(page).locator("code .hljs-keyword").first).to_have_text("def")
    assert await answers(page).locator("code").nth(1).locator("*").count() == 0
