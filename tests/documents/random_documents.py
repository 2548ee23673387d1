"""Documents of elements that stand anywhere: what a reader must end with, whatever it is."""

from __future__ import annotations

from random import Random

from tests.documents.archives import odt, slides, word, workbook

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
_ON_SLIDES = (
    "sp sp txBody txBody p p r t br fld tbl tr tc graphicFrame AlternateContent Choice nvSpPr nvPr ph pPr "
    "buChar buNone rPr hlinkClick"
)
_IN_SHEETS = "row row c c c v v is t r si rPh sheetData numFmts numFmt cellXfs xf"
_KEYS = (
    "val id styleId numId abstractNumId ilvl fldCharType instr char dropCap name level style-name "
    "outline-level c href start-value num-format num-prefix num-suffix display-levels display "
    "continue-numbering number-columns-repeated is-list-header type lvl hMerge r t s numFmtId formatCode"
)
_VALUES = (
    "0", "1", "2", "3", "9", "-4", "999999999", "x", "", "begin", "separate", "end", "restart", "drop",
    "none", "true", "false", "heading 2", "bullet", "lowerRoman", "upperLetter", "decimalZero",
    "%1.%2)", "title", "body", "sldNum", "inlineStr", "b", "B7", "AA", "14", "yyyy", "0.5", "a",
    "A", "03B1", 'HYPERLINK &quot;https://example.org/&quot;', "#top",
    "https://example.org/",
)  # fmt: skip
_TEXTS = (
    "0.1",
    "45000.25",
    "-1.50E-4",
    "1.0000000000000001",
    "123456789012.3456785",
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
    """A document of any kind that is read."""
    kind = random.random()
    if kind < 0.15:
        return slides(*(_tree(random, "p", _ON_SLIDES, 6) for _ in range(2)))
    if kind < 0.3:
        parts = {name: _tree(random, "p", _IN_SHEETS, 3) for name in ("strings", "styles")}
        return workbook(*(_tree(random, "p", _IN_SHEETS, 4) for _ in range(2)), **parts)
    if kind < 0.5:
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
