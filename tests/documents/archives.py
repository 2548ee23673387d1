"""Small documents of office programs, written by hand, with their texts, or why they have none."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

FILES = Path(__file__).parent / "files"
"""Documents that other programs wrote, after which they are called, with the text of each beside it."""

WRITTEN = sorted(path for path in FILES.iterdir() if path.suffix != ".txt")

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_NAMES = (
    f'xmlns:w="{_W}" xmlns:r="{_R}" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)
_RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
_TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


@dataclass(frozen=True)
class Case:
    """A file, and the text that is read of it, or the reason why none is."""

    name: str
    content: bytes
    text: str


def packed(parts: dict[str, str | bytes]) -> bytes:
    """A zip archive."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return held.getvalue()


_MODES = {True: "External", False: "Internal"}


def _relations(*all_of_them: tuple[str, str, str, bool]) -> str:
    written = "".join(
        f'<Relationship Id="{name}" Type="{_R}/{kind}" Target="{target}" '
        f"TargetMode='{_MODES[is_external]}'/>"
        for name, kind, target, is_external in all_of_them
    )
    return f"{_RELATIONS}{written}</Relationships>"


def word(body: str, *, links: dict[str, str] | None = None, **parts: str) -> bytes:
    """A Word document; `parts` are the contents of `styles`, `numbering`, `footnotes` and `endnotes`."""
    known = [(kind, kind, f"{kind}.xml", False) for kind in parts]
    known += [(name, "hyperlink", address, True) for name, address in (links or {}).items()]
    return packed(
        {
            "[Content_Types].xml": _TYPES,
            "_rels/.rels": _relations(("d", "officeDocument", "word/document.xml", False)),
            "word/document.xml": f"<w:document {_NAMES}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": _relations(*known),
            **{
                f"word/{kind}.xml": f"<w:{kind} {_NAMES}>{content}</w:{kind}>"
                for kind, content in parts.items()
            },
        }
    )


def _office(kind: str, main: str, root: str, parts: dict[str, tuple[str, str]]) -> bytes:
    """A file of PowerPoint's or Excel's: its main part, and what that refers to, by ids, of a kind each."""
    known = [(name, kind, f"{name}.xml", False) for name, (kind, _) in parts.items()]
    names = _NAMES.replace("xmlns:w=", "xmlns:p=")
    return packed(
        {
            "_rels/.rels": _relations(("d", "officeDocument", f"{kind}/main.xml", False)),
            f"{kind}/main.xml": f"<{root} {names}>{main}</{root}>",
            f"{kind}/_rels/main.xml.rels": _relations(*known),
            **{
                f"{kind}/{name}.xml": f"<p:part {names}>{content}</p:part>"
                for name, (_, content) in parts.items()
            },
        }
    )


def slides(*contents: str) -> bytes:
    """A presentation, by the shapes of its slides."""
    main = "".join(f'<p:sldId id="25{at}" r:id="s{at}"/>' for at in range(len(contents)))
    parts = {f"s{at}": ("slide", content) for at, content in enumerate(contents)}
    return _office("ppt", f"<p:sldIdLst>{main}</p:sldIdLst>", "p:presentation", parts)


def workbook(*sheets: str, strings: str = "", styles: str = "") -> bytes:
    """A workbook, by the rows of its sheets."""
    main = "".join(f'<p:sheet name="S{at}" r:id="s{at}"/>' for at in range(len(sheets)))
    parts = {
        f"s{at}": ("worksheet", f"<p:sheetData>{rows}</p:sheetData>")
        for at, rows in enumerate(sheets)
    }
    shared = {"strings": ("sharedStrings", strings), "styles": ("styles", styles)}
    return _office("xl", f"<p:sheets>{main}</p:sheets>", "p:workbook", parts | shared)


def odt(body: str, styles: str = "") -> bytes:
    """An OpenDocument text; `styles` are its automatic ones."""
    spaces = {
        "office": "office", "text": "text", "table": "table", "style": "style", "draw": "drawing",
    }  # fmt: skip
    names = " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for short, name in spaces.items()
    )
    content = (
        f'<office:document-content {names} xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:text>{body}</office:text></office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.text"
    return packed({"mimetype": kind, "content.xml": content})


def p(*runs: str, properties: str = "") -> str:
    """A paragraph of Word's: texts, or elements as they are."""
    written = (run if run.startswith("<") else f"<w:r><w:t>{run}</w:t></w:r>" for run in runs)
    return f"<w:p><w:pPr>{properties}</w:pPr>{''.join(written)}</w:p>"


def _item(text: str, level: int, number: int = 1) -> str:
    return p(
        text, properties=f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
    )


def _level(at: int, form: str, text: str, start: int = 1) -> str:
    return (
        f'<w:lvl w:ilvl="{at}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>'
        f'<w:lvlText w:val="{text}"/></w:lvl>'
    )


_LEGAL = (
    '<w:abstractNum w:abstractNumId="0">'
    + _level(0, "upperRoman", "%1.")
    + _level(1, "decimal", "%1.%2", 3)
    + _level(2, "lowerLetter", "(%3)")
    + '</w:abstractNum><w:abstractNum w:abstractNumId="1">'
    + _level(0, "bullet", "\uf0b7")
    + '</w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
    '<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
    '<w:num w:numId="3"><w:abstractNumId w:val="0"/>'
    '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride></w:num>'
)


def _style(name: str, inside: str, based_on: str = "", kind: str = "paragraph") -> str:
    base = f'<w:basedOn w:val="{based_on}"/>' if based_on else ""
    return f'<w:style w:type="{kind}" w:styleId="{name}"><w:name w:val="{name}"/>{base}{inside}</w:style>'


_STYLES = (
    '<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    + _style("Mine", "", "berschrift1")
    + _style("Outlined", '<w:pPr><w:outlineLvl w:val="2"/></w:pPr>')
    + _style("Body", '<w:pPr><w:outlineLvl w:val="9"/></w:pPr>', "berschrift1")
    + _style("Secret", "<w:rPr><w:vanish/></w:rPr>", kind="character")
    + _style("Circle", "", "Round")
    + _style("Round", "", "Circle")
)


def _styled(text: str, style: str) -> str:
    return p(text, properties=f'<w:pStyle w:val="{style}"/>')


def _cell(content: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{content}</w:tc>"


def _row(*cells: str, properties: str = "") -> str:
    return f"<w:tr><w:trPr>{properties}</w:trPr>{''.join(cells)}</w:tr>"


def _field(code: str, result: str) -> str:
    sign = '<w:r><w:fldChar w:fldCharType="{}"/></w:r>'
    begin, between, end = (sign.format(kind) for kind in ("begin", "separate", "end"))
    return f"{begin}<w:r><w:instrText>{code}</w:instrText></w:r>{between}<w:r><w:t>{result}</w:t></w:r>{end}"


def _box(text: str) -> str:
    """A text box as Word writes it: for itself, and for its versions before 2010."""
    within = f"<w:txbxContent>{p(text)}</w:txbxContent>"
    return (
        "<w:r><mc:AlternateContent>"
        f'<mc:Choice Requires="wps"><w:drawing><wps:txbx>{within}</wps:txbx></w:drawing></mc:Choice>'
        f"<mc:Fallback><w:pict><v:textbox>{within}</v:textbox></w:pict></mc:Fallback>"
        "</mc:AlternateContent></w:r>"
    )


def _said(text: str, level: str = "", inside: str = "") -> str:
    """A paragraph on a slide."""
    return f"<p:p><p:pPr {level}>{inside}</p:pPr><p:r><p:t>{text}</p:t></p:r></p:p>"


def _shape(paragraphs: str, place: str = "") -> str:
    about = f"<p:nvSpPr><p:nvPr>{place}</p:nvPr></p:nvSpPr>"
    return f"<p:sp>{about}<p:txBody>{paragraphs}</p:txBody></p:sp>"


def _value(name: str, value: str, attributes: str = "") -> str:
    place = f'r="{name}"' if name else ""
    return f"<p:c {place} {attributes}><p:v>{value}</p:v></p:c>"


_HIDDEN = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>no</w:t></w:r>"
_DELETED_END = "<w:rPr><w:del w:id='1'/></w:rPr>"
_NOTE = (
    '<w:footnote w:id="{}"><w:p><w:r><w:t xml:space="preserve"> {}</w:t></w:r></w:p></w:footnote>'
)

_BULLETS = '<text:list-style style:name="B"><text:list-level-style-bullet text:level="1"/></text:list-style>'
_NUMBERS = (
    '<text:list-style style:name="N">'
    '<text:list-level-style-number text:level="1" style:num-format="1" style:num-suffix="."/>'
    '<text:list-level-style-number text:level="2" style:num-format="a" style:num-prefix="(" '
    'style:num-suffix=")"/>'
    "</text:list-style>"
    '<style:style style:name="H"><style:text-properties text:display="none"/></style:style>'
)


def _items(style: str, *texts: str, more: str = "", attributes: str = "") -> str:
    items = "".join(f"<text:list-item><text:p>{text}</text:p></text:list-item>" for text in texts)
    return f'<text:list text:style-name="{style}" {attributes}>{items}{more}</text:list>'


def with_part(name: str, content: str | bytes, document: bytes) -> bytes:
    """A document with another content of a part."""
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        parts: dict[str, str | bytes] = {one: archive.read(one) for one in archive.namelist()}
    return packed(parts | {name: content})


_MAIN = "word/document.xml"

TEXTS = [
    Case("paragraphs", word(p("One ", "two") + p() + p("three")), "One two\n\nthree"),
    Case(
        "lines and tabs",
        word(p("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:noBreakHyphen/></w:r>")),
        "a\tb\nc-",
    ),
    Case(
        "headings by any style",
        word(
            "".join(
                _styled(one, one) for one in ("berschrift1", "Mine", "Outlined", "Body", "Circle")
            ),
            styles=_STYLES,
        ),
        "# berschrift1\n\n# Mine\n\n### Outlined\n\nBody\n\nCircle",
    ),
    Case(
        "numbers as they are shown",
        word(
            _item("one", 0)
            + _item("below", 1)
            + _item("further", 1)
            + _item("a", 2)
            + _item("two", 0)
            + _item("anew", 1)
            + p("between")
            + _item("three", 0)
            + _item("seven", 0, 3)
            + _item("dot", 0, 2)
            + _item("none", 0, 0),
            numbering=_LEGAL,
        ),
        "I. one\n  I.3 below\n  I.4 further\n    (a) a\nII. two\n  II.3 anew\n\nbetween\n\n"
        "III. three\nVII. seven\n- dot\n\nnone",
    ),
    Case(
        "a table",
        word(
            "<w:tbl>"
            + _row(_cell(p("a|b"), '<w:gridSpan w:val="2"/>'), _cell(p("c") + p("d")))
            + _row(_cell(p("1"), "<w:vMerge w:val='restart'/>"), _cell(p("2")), _cell(p("3")))
            + _row(
                _cell(p("-"), "<w:vMerge/>"),
                f"<w:sdt><w:sdtContent>{_cell(p('5'))}</w:sdtContent></w:sdt>",
            )
            + _row(_cell(p("gone")), properties="<w:del w:id='1'/>")
            + "</w:tbl>"
        ),
        "| a\\|b |  | c<br>d |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n|  | 5 |",
    ),
    Case(
        "tables within tables, and frames",
        word(
            "<w:tbl>"
            + _row(
                _cell(p("x") + f"<w:tbl>{_row(_cell(p('1')), _cell(p('2')))}</w:tbl>"),
                _cell(p("y")),
            )
            + f"</w:tbl><w:tbl>{_row(_cell(p('framed') + p('twice')))}</w:tbl>"
        ),
        "| x<br>1 / 2 | y |\n| --- | --- |\n\nframed\n\ntwice",
    ),
    Case(
        "links",
        word(
            p('<w:hyperlink r:id="l"><w:r><w:t>here</w:t></w:r></w:hyperlink>')
            + p('<w:hyperlink w:anchor="top"><w:r><w:t>above</w:t></w:r></w:hyperlink>')
            + p('<w:hyperlink r:id="m"><w:r><w:t>a@example.org</w:t></w:r></w:hyperlink>')
            + p(_field(' HYPERLINK "https://example.org/f" ', "field"), _field(" PAGE ", "7"))
            + p('<w:fldSimple w:instr=" AUTHOR "><w:r><w:t>Me</w:t></w:r></w:fldSimple>'),
            links={"l": "https://example.org/", "m": "mailto:a@example.org"},
        ),
        "[here](https://example.org/)\n\nabove\n\na@example.org\n\n[field](https://example.org/f)7\n\nMe",
    ),
    Case(
        "a field without an end hides nothing behind it",
        word(p('<w:r><w:fldChar w:fldCharType="begin"/><w:t>code</w:t></w:r>') + p("text")),
        "text",
    ),
    Case(
        "changes are accepted",
        word(
            p(
                "kept ",
                "<w:ins><w:r><w:t>new</w:t></w:r></w:ins>",
                "<w:del><w:r><w:delText>old</w:delText></w:r></w:del>",
            )
            + p(
                "<w:moveFrom><w:r><w:t>from</w:t></w:r></w:moveFrom>",
                "<w:moveTo><w:r><w:t>to</w:t></w:r></w:moveTo>",
            )
            + p("one ", properties=_DELETED_END)
            + p("line")
        ),
        "kept new\n\nto\n\none line",
    ),
    Case(
        "a text box once", word(p("before", _box("boxed")) + p("after")), "before\n\nboxed\n\nafter"
    ),
    Case(
        "notes",
        word(
            p(
                "a",
                '<w:r><w:footnoteReference w:id="5"/></w:r>',
                '<w:r><w:endnoteReference w:id="2"/></w:r>',
            ),
            footnotes=_NOTE.format(5, "foot") + _NOTE.format(6, "unused"),
            endnotes=_NOTE.format(2, "end").replace("footnote", "endnote"),
        ),
        "a[^1][^2]\n\n[^1]: foot\n\n[^2]: end",
    ),
    Case(
        "hidden text is left out",
        word(
            p("seen", _HIDDEN, '<w:r><w:rPr><w:rStyle w:val="Secret"/></w:rPr><w:t>no</w:t></w:r>')
            + p(_HIDDEN.replace("<w:vanish/>", '<w:vanish w:val="0"/>')),
            styles=_STYLES,
        ),
        "seen\n\nno",
    ),
    Case(
        "a formula",
        word(
            p(
                "<m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num>"
                "<m:den><m:r><m:t>b</m:t></m:r></m:den></m:f></m:oMath>"
            )
        ),
        "(a)/(b)",
    ),
    Case("signs of fonts", word(p('<w:r><w:sym w:char="03B1"/><w:sym w:char="F0B7"/></w:r>')), "α"),
    Case("an initial", word(p("D", properties='<w:framePr w:dropCap="drop"/>') + p("rop")), "Drop"),
    Case(
        "UTF-16",
        with_part(
            _MAIN,
            "<w:document xmlns:w='w'><w:body><w:p><w:r><w:t>é</w:t></w:r></w:p></w:body></w:document>".encode(
                "utf-16"
            ),
            word(""),
        ),
        "é",
    ),
    Case(
        "odt: blanks, lines, links, notes",
        odt(
            '<text:h text:outline-level="2">A\n  heading</text:h>'
            '<text:p> a<text:s text:c="2"/>b<text:tab/>c<text:line-break/>d '
            '<text:a xlink:href="https://example.org/">link</text:a><text:a xlink:href="#x">in</text:a>'
            "<text:note><text:note-citation>1</text:note-citation>"
            "<text:note-body><text:p>foot</text:p></text:note-body></text:note></text:p>"
        ),
        "## A heading\n\na  b\tc\nd [link](https://example.org/)in[^1]\n\n[^1]: foot",
    ),
    Case(
        "odt: lists",
        odt(
            _items(
                "N",
                "one",
                "two",
                more=f"<text:list-item>{_items('N', 'in', 'it')}</text:list-item>",
            )
            + _items("B", "dot")
            + _items("N", "three", attributes='text:continue-numbering="true"')
            + _items("N", "anew"),
            _BULLETS + _NUMBERS,
        ),
        "1. one\n2. two\n  (a) in\n  (b) it\n- dot\n3. three\n1. anew",
    ),
    Case(
        "odt: tables, frames, changes",
        odt(
            "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
            "<table:table><table:table-header-rows><table:table-row><table:table-cell "
            'table:number-columns-repeated="2"><text:p>h</text:p></table:table-cell></table:table-row>'
            "</table:table-header-rows><table:table-row><table:table-cell><text:p>1</text:p></table:table-cell>"
            "<table:table-cell><text:p>2</text:p></table:table-cell></table:table-row></table:table>"
            "<text:p>a<draw:frame><draw:text-box><text:p>boxed</text:p></draw:text-box></draw:frame></text:p>"
            '<text:p text:style-name="H">hidden</text:p><text:section><text:p>within</text:p></text:section>',
            _NUMBERS,
        ),
        "| h | h |\n| --- | --- |\n| 1 | 2 |\n\na\n\nboxed\n\nwithin",
    ),
    Case("empty", word(p()), ""),
    Case(
        "slides: titles, items, tables, what is on each",
        slides(
            _shape(_said("below", 'lvl="1"') + _said("free", "", "<p:buNone/>"), "<p:ph/>")
            + _shape(_said("Title"), '<p:ph type="title"/>')
            + _shape(_said("7"), '<p:ph type="sldNum"/>')
            + "<p:tbl><p:tr><p:tc><p:txBody>"
            + _said("a")
            + '</p:txBody></p:tc><p:tc hMerge="1"><p:txBody>'
            + _said("b")
            + "</p:txBody></p:tc></p:tr></p:tbl>",
            "",
            f"<mc:AlternateContent><mc:Choice>{_shape(_said('once'))}</mc:Choice>"
            f"<mc:Fallback>{_shape(_said('twice'))}</mc:Fallback></mc:AlternateContent>",
        ),
        "# Slide 1: Title\n\n  - below\n\nfree\n\n| a |  |\n| --- | --- |\n\n# Slide 3\n\nonce",
    ),
    Case("slides without text", slides("", _shape("")), ""),
    Case(
        "sheets: texts, numbers, dates",
        workbook(
            "<p:row>"
            + _value("B1", "0", 't="s"')
            + _value("D1", "1", 't="b"')
            + "</p:row><p:row/><p:row>"
            + _value("C9", "45352", 's="1"')
            + _value("D9", "0.5", 's="1"')
            + "</p:row><p:row>"
            + _value("", "x")
            + _value("", "0.30000000000000004")
            + _value("", "1.5E-3")
            + _value("", "45352.75", 's="2"')
            + _value("", "1E300")
            + _value("", "59", 's="1"')
            + "</p:row>",
            _value("ZZ1", ""),
            strings="<p:si><p:r><p:t>on</p:t></p:r><p:r><p:t>e&#10;</p:t></p:r>"
            "<p:rPh><p:t>no</p:t></p:rPh></p:si>",
            styles='<p:numFmts><p:numFmt numFmtId="170" formatCode="&quot;d&quot;0.0"/>'
            '<p:numFmt numFmtId="171" formatCode="[$-409]d\\. mmm"/></p:numFmts>'
            '<p:cellXfs><p:xf numFmtId="170"/><p:xf numFmtId="14"/><p:xf numFmtId="171"/></p:cellXfs>',
        ),
        "# S0\n\n\tone\t\tTRUE\n\t\t2024-03-01\t12:00:00\n"
        "x\t0.3\t0.0015\t2024-03-01 18:00:00\t1E300\t1900-02-28"
        "\n\n# S1",
    ),
]


def _lying(document: bytes) -> bytes:
    """An archive whose directory tells that its main part unpacks to nearly 4 GB."""
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        size = archive.getinfo("word/document.xml").file_size
    directory = document.index(b"PK\1\2")
    true = struct.pack("<I", size)
    place = document.index(true, document.index(b"word/document.xml", directory) - 24)
    return document[:place] + struct.pack("<I", 0xFFFF_0000) + document[place + 4 :]


def _spoilt(document: bytes) -> bytes:
    """An archive with other bytes in its main part."""
    at = document.index(b"word/document.xml") + 40
    return document[:at] + bytes(20) + document[at + 20 :]


def _compound(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream.encode("utf-16-le") + bytes(64)


_PLAIN = word(p("text"))
_SAVE = "save it as .docx, .odt or PDF"
_DAMAGED = "it is damaged"
_LOCKED = "it is locked with a password; save it without one"
_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><w:document xmlns:w="w">&b;</w:document>'
)

REFUSED = [
    Case("half.docx", _PLAIN[: len(_PLAIN) // 2], _DAMAGED),
    Case("bytes.docx", _spoilt(_PLAIN), _DAMAGED),
    Case("start.docx", b"PK\3\4 and more", _DAMAGED),
    Case("broken.docx", with_part(_MAIN, "<w:document", _PLAIN), _DAMAGED),
    Case("laughs.docx", with_part(_MAIN, _LAUGHS, _PLAIN), _DAMAGED),
    Case("letters.docx", with_part(_MAIN, b"<a>\xff</a>", _PLAIN), _DAMAGED),
    Case(
        "bomb.docx",
        with_part(_MAIN, b" " * 30_000_001, _PLAIN),
        "its text unpacks to more than 30,000,000 bytes",
    ),
    Case("lying.docx", _lying(_PLAIN), "its text unpacks to more than 30,000,000 bytes"),
    Case(
        "parts.docx",
        packed({f"{number}": "" for number in range(10_001)}),
        "it has more than 10,000 parts",
    ),
    Case("deep.docx", word("<w:sdt>" * 300 + "</w:sdt>" * 300), "its parts are nested too deeply"),
    Case("long.docx", word(p("word " * 1_000_001)), "it has more than 5,000,000 characters"),
    Case("locked.docx", _compound("EncryptedPackage"), _LOCKED),
    Case("old.doc", _compound("WordDocument"), f"it is of Word before 2007; {_SAVE}"),
    Case("old.xls", _compound("Workbook"), "it is of Excel before 2007; save it as .xlsx or CSV"),
    Case(
        "old.ppt",
        _compound("PowerPoint Document"),
        "it is of PowerPoint before 2007; save it as .pptx or PDF",
    ),
    Case(
        "binary.xlsb",
        packed(
            {
                "_rels/.rels": _relations(("d", "officeDocument", "xl/workbook.bin", False)),
                "xl/workbook.bin": "",
            }
        ),
        "it is a binary workbook; save it as .xlsx or CSV",
    ),
    Case("wide.xlsx", workbook(f"<p:row>{_value('XFE1', '1')}</p:row>"), "it is damaged"),
    Case(
        "far.xlsx",
        workbook(f"<p:row>{_value('A1', '1')}{_value('XFD1', '1')}</p:row>" * 400),
        "it has more than 5,000,000 characters",
    ),
    Case("mail.msg", _compound("__substg1.0"), f"it is of an older program; {_SAVE}"),
    Case(
        "locked.odt",
        packed(
            {
                "mimetype": "application/vnd.oasis.opendocument.text",
                "content.xml": b"\0",
                "META-INF/manifest.xml": "<m><manifest:encryption-data/></m>",
            }
        ),
        _LOCKED,
    ),
    Case(
        "sheets.ods",
        packed(
            {"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": "<a/>"}
        ),
        "it is a workbook of OpenDocument; save it as .xlsx or CSV",
    ),
    Case(
        "essay.pages",
        packed({"Index/Document.iwa": b"\0"}),
        "it is of Pages, Numbers or Keynote; export it as Word or PDF",
    ),
    Case("all.zip", packed({"a.txt": "text"}), "it is an archive; attach what is in it"),
]
