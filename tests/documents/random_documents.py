"""Documents of elements that stand anywhere: what a reader must end with, whatever it is."""

from __future__ import annotations

from random import Random

from tests.documents.archives import odt, word

_IN_WORD = (
    "p p p r r r t t t tab br sdt sdtContent ins del hyperlink fldSimple instrText fldChar drawing "
    "txbxContent AlternateContent Choice Fallback tbl tr tc tcPr gridSpan vMerge trPr pPr rPr vanish "
    "pStyle rStyle numPr numId ilvl outlineLvl framePr sym footnoteReference endnoteReference oMath f "
    "num den sSup e sup style name basedOn abstractNum lvl lvlText numFmt start isLgl lvlOverride "
    "startOverride abstractNumId numStyleLink footnote endnote gridBefore"
)
_IN_ODT = (
    "p p p h h span span s tab line-break a list list list-item list-item list-header note note-body "
    "note-citation frame text-box custom-shape table table-row table-cell covered-table-cell section "
    "table-header-rows tracked-changes annotation hidden-text list-style list-level-style-number "
    "list-level-style-bullet style text-properties outline-style outline-level-style"
)
_KEYS = (
    "val id styleId numId abstractNumId ilvl fldCharType instr char dropCap name level style-name "
    "outline-level c href start-value num-format num-prefix num-suffix display-levels display "
    "continue-numbering number-columns-repeated is-list-header"
)
_VALUES = (
    "0", "1", "2", "3", "9", "-4", "999999999", "x", "", "begin", "separate", "end", "restart", "drop",
    "none", "true", "false", "heading 2", "bullet", "lowerRoman", "upperLetter", "decimalZero",
    "%1.%2)", "a", "A", "03B1", 'HYPERLINK &quot;https://example.org/&quot;', "#top", "https://example.org/",
)  # fmt: skip
_TEXTS = (
    "",
    "",
    " ",
    "word",
    " two  words\n",
    "a|b",
    "\t",
    "*",
    "é日本😀",
    "&lt;b&gt;",
    "\x85\ufeff\u2028.",
)


def random_document(random: Random) -> bytes:
    """A Word document, or an OpenDocument text."""
    if random.random() < 0.4:
        return odt(_tree(random, "text", _IN_ODT, 6), _tree(random, "text", _IN_ODT, 3))
    parts = {name: _tree(random, "w", _IN_WORD, 3) for name in ("styles", "numbering", "footnotes")}
    return word(_tree(random, "w", _IN_WORD, 7), links={"1": "https://example.org/1"}, **parts)


def _tree(random: Random, space: str, names: str, depth: int) -> str:
    if depth == 0:
        return random.choice(_TEXTS)
    return "".join(_element(random, space, names, depth) for _ in range(random.randrange(1, 4)))


def _element(random: Random, space: str, names: str, depth: int) -> str:
    name = f"{space}:{random.choice(names.split())}"
    keys = random.sample(_KEYS.split(), random.randrange(3))
    attributes = "".join(f' {space}:{key}="{random.choice(_VALUES)}"' for key in keys)
    inside = _tree(random, space, names, depth - 1)
    return f"<{name}{attributes}>{random.choice(_TEXTS)}{inside}</{name}>{random.choice(_TEXTS)}"
