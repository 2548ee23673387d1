"""Markdown that grows: in the end it stands as if it had been printed at once."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console, ConsoleDimensions

from quire.cli.chat.colours import chat_console
from quire.cli.chat.markdown import MarkdownStream, split_blocks
from quire.cli.chat.markdown_lines import render, safe_address
from quire.cli.signals import Suspension
from tests.cli.screen import Screen

LONG = "\n".join(
    [
        "# A title",
        "",
        "Some *text* with `code` and **bold**, long enough to be broken into several lines of it.",
        "",
        "- one",
        "- two",
        "  - three",
        "",
        "1. first",
        "",
        "2. second",
        "",
        "```python",
        *(f"print({number})" for number in range(40)),
        "```",
        "> a quotation",
        "",
        "| a | b |",
        "|---|---|",
        *(f"| x | row {number} |" for number in range(30)),
        "",
        "The end.",
    ]
)
FRAGMENTS = st.sampled_from(
    [
        "word ",
        "words and words ",
        "\n",
        "\n\n",
        "- item\n",
        "1. one\n",
        "2",
        "`code`",
        "**bold** ",
        "```\n",
        "# Title\n",
        "> quoted\n",
        "| a | b |\n|---|---|\n",
        "| 1 | 2 |\n",
        "---\n",
        "    code\n",
        "中文字 ",
        "***\n",
        "[a](http://b) ",
        "<b>",
        "&lt;",
        "\t",
        "[a]: b\n",
        "![i](j)",
        "\\",
        "~~no~~ ",
    ]
)


class Clock:
    """A drawing is due at each piece, as if pieces came slowly."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def streamed(
    pieces: Iterable[str],
    width: int = 40,
    height: int = 10,
    resizes: Mapping[int, tuple[int, int]] | None = None,
    *,
    wraps: bool = True,
) -> Screen:
    """The screen at the end; before some pieces the window gets another width and height.

    `wraps`: whether it wraps its lines again where it becomes narrower, as xterm alone does not.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("XTERM_VERSION", raising=False)
        if not wraps:
            patch.setenv("XTERM_VERSION", "XTerm(390)")
        return _streamed(pieces, width, height, resizes or {}, wraps)


def _streamed(
    pieces: Iterable[str],
    width: int,
    height: int,
    resizes: Mapping[int, tuple[int, int]],
    wraps: bool,
) -> Screen:
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=True, width=width, height=height, color_system=None, _environ={}
    )
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    screen = Screen(width, height)
    for index, piece in enumerate(pieces):
        if index in resizes:
            screen.feed(output.getvalue())
            output.seek(0)
            output.truncate()
            console.size = ConsoleDimensions(*resizes[index])
            if wraps and resizes[index][0] < screen.width:
                screen.narrow(resizes[index][0])
            screen.width, screen.height = resizes[index]
        stream.add(piece)
    stream.finish()
    screen.feed(output.getvalue())
    return screen


def at_once(text: str, width: int = 40) -> str:
    output = io.StringIO()
    stream = MarkdownStream(Console(file=output, width=width, height=10))
    stream.add(text)
    stream.finish()
    screen = Screen(width, 10)
    screen.feed(output.getvalue())
    return screen.text


def _without_widths(text: str) -> str:
    return re.sub(" +", " ", text.replace("─", ""))


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_an_answer_longer_than_the_screen_stands_once_and_whole(size: int) -> None:
    pieces = [LONG[start : start + size] for start in range(0, len(LONG), size)]
    shown = streamed(pieces).text
    # What scrolled away keeps the widths that the table had then.
    assert _without_widths(shown) == _without_widths(at_once(LONG))
    for number in range(40):
        assert shown.count(f"print({number})") == 1
    for number in range(30):
        assert shown.count(f"row {number}\n") == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=25))
@example(["- item\n", "\n", "2", ". more"])
def test_growing_in_a_high_window_ends_as_printed_at_once(fragments: list[str]) -> None:
    assert streamed(fragments, height=200).text == at_once("".join(fragments)).lstrip("\n")


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=25), st.integers(1, 12), st.integers(4, 9))
def test_any_text_in_any_window_is_shown_and_does_no_harm(
    fragments: list[str], width: int, height: int
) -> None:
    streamed(fragments, width, height)  # Screen refuses what rich would not write


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    for control in ("\x1b[2J", "\x9b", "\u202e", "&#27;[31m", "%1B"):
        text = text[: len(text) // 2] + control + text[len(text) // 2 :]
    streamed(text)


def test_blocks_split_to_the_same_text() -> None:
    blocks, tail = split_blocks(LONG)
    assert "\n".join([*blocks, tail]) == LONG
    assert tail == "The end."


def test_code_is_shown_as_it_is_written() -> None:
    console = Console(width=40)
    lines = [line for row in render("```\n  a\n\nb\n```", console) for line in row.lines]
    assert ["".join(part.text for part in line) for line in lines] == ["code", "  a", "", "b"]


def printed(text: str, width: int = 40, *, colours: bool = False) -> str:
    """What is written of a text that came in small pieces, once it stands."""
    output = io.StringIO()
    system = "standard" if colours else None
    console = chat_console(
        "dark", file=output, width=width, force_terminal=colours, color_system=system, _environ={}
    )
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    for start in range(0, len(text), 7):
        stream.add(text[start : start + 7])
    stream.finish()
    return output.getvalue()


CODE = "def f(x):\n\treturn x  # " + "a long remark " * 8 + "\n\n\tprint('done')"


@pytest.mark.parametrize("name", ["", "python", "no-such-language"])
@pytest.mark.parametrize("lead", ["", "> ", "1. "])
def test_a_line_of_code_is_one_line_and_keeps_its_tabs(name: str, lead: str) -> None:
    """The terminal wraps it: a line that is copied has no line break of ours in it."""
    rest = ">" if lead == "> " else "  " if lead else ""
    block = f"```{name}\n{CODE}\n```".replace("\n", f"\n{rest} " if rest else "\n")
    taken = {"": 0, "> ": 2, "1. ": 3}[lead]
    lines = [line[taken:] for line in printed(lead + block).splitlines()]
    assert lines[0] == (name or "code")
    assert lines[1:] == CODE.replace("remark \n", "remark\n").split("\n")


def test_long_lines_of_code_grow_on_the_screen_as_they_end() -> None:
    text = f"```python\n{CODE}\n```"
    shown = streamed([text[start : start + 5] for start in range(0, len(text), 5)], 40, 30).text
    assert shown == at_once(text)


@pytest.mark.parametrize("name", ["", "text", "no-such-language"])
def test_code_of_no_known_language_looks_like_code(name: str) -> None:
    assert "\x1b[36mx = 1" in printed(f"```{name}\nx = 1\n```", colours=True)


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "is_safe"),
    [
        ("https://host.example/a?b=c#d", True),
        ("HTTP://host.example:8080", True),
        ("https://host.example/%1b%07", True),
        ("javascript:alert(1)", False),
        ("file:///etc/passwd", False),
        ("https://name@host.example/", False),
        ("https://host.example/\x1b\\\x1b[2J", False),
        ("https://host.example/\x07", False),
        ("https://host.example/\x9c", False),
        ("https://host.exаmple/", False),  # with a Cyrillic letter
        ("https://", False),
        ("https://host.example/" + "a" * 2000, False),
    ],
)
def test_links_that_a_terminal_may_open(address: str, is_safe: bool) -> None:
    assert safe_address(address) == (address if is_safe else None)


def test_a_link_can_be_opened_and_its_address_is_still_read() -> None:
    screen = Screen(80, 10)
    screen.feed(
        printed("[a](https://one.example) <https://two.example> [b](ftp://c)", 80, colours=True)
    )
    assert screen.text == "a (https://one.example) https://two.example b (ftp://c)"
    assert set(screen.links) == {"https://one.example", "https://two.example"}


def test_a_dumb_terminal_gets_no_commands() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=40, _environ={"TERM": "dumb"})
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    for piece in LONG.split(" "):
        stream.add(piece + " ")
    stream.finish()
    assert "\x1b" not in output.getvalue()
    assert "The end." in output.getvalue()


# --- no word is lost -----------------------------------------------------------------------------

# "@" stands for a word; "§" for one in a table, whose cells stand beside each other.
INLINE = st.sampled_from(
    [
        "@", "@ @ @", "*@ @*", "**@**", "*@", "`@ @`", "~~@~~", "<@>", "中文@", "@\n", "&amp;@",
        "[@](https://@/p)", "[@ *@*](https://@ '@')", "[@][@]", "<https://@.example>", "\\*@",
        "![@ @](https://@/i.png)", "![](https://@)", "[![@](https://@/i)](https://@/p)",
        "\\(@ \\\\ @\\)", "$@_@$", "\\[@",
    ]
)  # fmt: skip
TEXT = st.lists(INLINE, min_size=1, max_size=12).map(" ".join)
CELL = st.sampled_from(
    ["§", "§ §", "`§ §`", "[§](https://§)", "![§ §](https://§/i.png)", "中文§", ""]
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    columns = draw(st.integers(1, 9))
    more = st.integers(columns, columns + 2)  # a row may have more cells than the heading

    def row(length: int) -> str:
        cells = draw(st.lists(CELL, min_size=length, max_size=length))
        return f"| {' | '.join(cells)} |"

    rows = [row(draw(more)) for _ in range(draw(st.integers(0, 8)))]
    return "\n".join([row(columns), "|---" * columns + "|", *rows])


LEAVES = st.one_of(
    TEXT,
    TEXT.map(lambda text: f"# {text}".replace("\n", " ")),
    tables(),
    st.sampled_from(
        [
            "[@]: https://@ '@'",
            "```@ @\n@\n\n  @ @\n```",
            "~~~python\ndef @(): return '@'\n~~~",
            "    @  @",
            "\\[\n@ \\\\\n- @\n+ @\n# @\n\\]",
            "$$\n@ = @\n$$ @",
            "\\begin{align}\n- @ &= @\n\\end{align}",
            "---",
            "@\n===",
        ]
    ),
)


def inside(mark: str, rest: str, blocks: list[str]) -> str:
    return mark + "\n\n".join(blocks).replace("\n", f"\n{rest}")


MARKDOWN = st.lists(
    st.recursive(
        LEAVES,
        lambda inner: st.tuples(
            st.sampled_from([("> ", "> "), ("- ", "  "), ("7. ", "   ")]),
            st.lists(inner, min_size=1, max_size=3),
        ).map(lambda drawn: inside(*drawn[0], drawn[1])),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
).map("\n\n".join)


@settings(max_examples=100, deadline=None)
@given(
    MARKDOWN,
    st.integers(20, 100),
    st.integers(4, 40),
    st.integers(1, 40),
    st.dictionaries(st.integers(1, 40), st.tuples(st.integers(20, 100), st.integers(4, 40))),
    st.booleans(),
)
def test_every_word_is_on_the_screen_in_order(
    text: str, width: int, height: int, parts: int, resizes: dict[int, tuple[int, int]], wraps: bool
) -> None:
    numbers, words = count(), list[str]()

    def name(mark: re.Match[str]) -> str:
        words.append(f"{'w' if mark[0] == '@' else 't'}{next(numbers)}x")
        return words[-1]

    text = re.sub("[@§]", name, text)
    size = -(-len(text) // parts)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    shown = "".join(
        streamed(pieces, width, height, resizes, wraps=wraps).text.replace("▌", "").split()
    )
    place = 0
    for word in words:
        assert word in shown
        if word[0] == "w":
            place = shown.index(word, place) + len(word)


ADDRESS = "https://host.example/a/long/path/to/something?with=a&query=0123456789"


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize(
    ("columns", "cell"), [(2, ADDRESS), (3, "pip install quire-llm[server] --upgrade"), (27, "v")]
)
def test_a_table_that_does_not_fit_is_folded_or_written_by_records(
    columns: int, cell: str, width: int
) -> None:
    names = [f"name{number}" for number in range(columns)]
    values = [f"{cell}{number}" for number in range(columns)]
    table = f"| {' | '.join(names)} |\n{'|---' * columns}|\n| {' | '.join(values)} |\n"
    shown = at_once(table, width)
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.split("\n"))
    joined = "".join(shown.split())
    for name, value in zip(names, values, strict=True):
        assert name in joined
        assert all(word in joined for word in value.split())


def test_a_wide_table_has_a_record_for_each_row() -> None:
    table = f"| Name | Address |\n|---|---|\n| one | {ADDRESS} |\n| two | |\n| three | short |"
    assert at_once(table, 75) == "\n".join(
        [
            "Name · Address",
            "─" * 75,
            "Name: one",
            "Address:",
            ADDRESS,
            "",
            "Name: two",
            "",
            "Name: three",
            "Address: short",
        ]
    )


def test_cells_fold_between_words() -> None:
    table = "| Name | Meaning |\n|---|--:|\n| one | some words that fold |\n| two | short |"
    assert at_once(table, 20) == "\n".join(
        [
            "Name         Meaning",
            "─" * 20,
            "one       some words",
            "           that fold",
            "",
            "two            short",
        ]
    )


def test_a_table_longer_than_the_screen_stands_once_when_its_columns_change() -> None:
    rows = [f"| r{number} | {'word ' * number}|\n" for number in range(12)]
    shown = streamed(["| a | b |\n|---|---|\n", *rows], width=40, height=8).text
    for number in range(12):
        assert shown.count(f"r{number} ") + shown.count(f"r{number}\n") == 1
    assert shown.count("word") == sum(range(12))


def test_an_image_is_its_text_and_address_in_its_place() -> None:
    words = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november"
    text = f"{words} see ![the plot](https://host.example/plot.png) for more"
    said = f"{words} see the plot (https://host.example/plot.png) for more"
    for width in (40, 80):
        assert at_once(text, width).split() == said.split()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"so \(a_1 \{b\} *c* d*\), then", r"so \(a_1 \{b\} *c* d*\), then"),
        (r"\[ a \\ b \, c \]", r"\[ a \\ b \, c \]"),
        ("\\[\na \\\\\n- b \\\\\n\\]", "\\[\na \\\\\n- b \\\\\n\\]"),
        (r"$\{a\}_i *b* c*$", r"$\{a\}_i *b* c*$"),
        (r"$$\|x\| \\ y$$", r"$$\|x\| \\ y$$"),
        (
            "\\begin{align}\n+ a &= b \\\\\n\\end{align}",
            "\\begin{align}\n+ a &= b \\\\\n\\end{align}",
        ),
        (r"cut off: \(a \, b", r"cut off: \(a \, b"),
        (r"a \) b \] c", r"a \) b \] c"),
        ("it costs $5 *or* $6", "it costs $5 or $6"),
        (r"\$5 *or* \$6, \*not\*", "$5 or $6, *not*"),
        (r"`\(a\)`", r"\(a\)"),
    ],
)
def test_formulas_stay_as_they_are(text: str, shown: str) -> None:
    assert at_once(text, 80) == shown
    assert streamed(text, 80, 24).text == shown


def test_what_is_nested_too_deep_is_shown_as_text() -> None:
    text = "> " * 60 + "deep *down*\n\nabove"
    joined = " ".join(at_once(text, 20).replace("▌", "").split())
    assert "deep" in joined
    assert joined.endswith("above")


@pytest.mark.parametrize("width", [20, 24, 60])
def test_a_list_as_deep_as_a_narrow_window(width: int) -> None:
    text = "".join(f"{'  ' * level}- word{level}\n" for level in range(12))
    words = at_once(text, width).replace("•", "").split()
    assert [word for word in words if word != "-"] == [f"word{level}" for level in range(12)]


@pytest.mark.parametrize("width", [59, 40, 21])
def test_a_terminal_that_becomes_narrower_shows_nothing_twice(width: int) -> None:
    text = " ".join(f"word{number}" for number in range(40))
    pieces = re.findall(r"\S+ ?", text)
    shown = streamed(pieces, 60, 20, {20: (width, 20)}).text
    assert shown.split() == text.split()
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("height", [10, 40])
def test_after_a_suspension_what_others_have_written_stands(
    height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = ["[1]+  Stopped", "$ ls", "notes.txt", "$ fg", "quire chat"]
    text = "A paragraph with some *words* that stand in several lines, and end. " * 5
    output, screen = io.StringIO(), Screen(40, height)
    console = Console(
        file=output, force_terminal=True, width=40, height=height, color_system=None, _environ={}
    )
    stream = MarkdownStream(console, clock=Clock(), interval=0)
    pieces = re.findall(r"\S+ ", text)
    for index, piece in enumerate(pieces):
        if index == len(pieces) // 2:
            monkeypatch.setattr(Suspension, "count", Suspension.count + 1)
            output.write("\n" + "\n".join(shell) + "\n")
        stream.add(piece)
    stream.finish()
    screen.feed(output.getvalue())
    begun, found, rest = screen.text.partition("\n".join(["", *shell, ""]))
    before, after, whole = begun.split(), rest.split(), at_once(text).split()
    assert min(len(before), len(after), len(found)) > 0
    assert before == whole[: len(before)]
    assert after == whole[-len(after) :]
    assert len(before) + len(after) >= len(whole)
