"""Files of text and PDFs that go with a message: by a command, by dropping, and in a filter."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from quire.cli.chat import text_files
from quire.cli.chat.attachments import read_sources, split_dropped
from quire.cli.chat.saved_markdown import to_markdown
from quire.cli.chat.session import Session
from quire.cli.chat.text_files import TextFile, read_text_file, split_quoted, text_of
from quire.cli.main import main
from quire.errors import MediaError
from quire.messages import Media
from tests.cli.chat.test_attachments import asked, part, text_part
from tests.cli.chat.test_terminal_chat import converse
from tests.cli.fake_chat_model import FakeChatModel


def pdf(*pages: str) -> bytes:
    """A PDF with a line on each page; PDFium reads it without the table of its objects."""
    kids = " ".join(f"{10 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        (1, "<< /Type /Catalog /Pages 2 0 R >>"),
        (2, f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"),
        (3, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"),
    ]
    for number, text in enumerate(pages):
        at = 10 + 2 * number
        draw = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET"
        page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents"
        objects += [
            (at, f"{page} {at + 1} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"),
            (at + 1, f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream"),
        ]
    body = "".join(f"{number} 0 obj\n{content}\nendobj\n" for number, content in objects)
    return f"%PDF-1.4\n{body}trailer << /Root 1 0 R >>\n%%EOF\n".encode("latin-1")


# --- what is text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("\ufeffé".encode(), "é"),
        ("\ufeffé中".encode("utf-16-le"), "é中"),
        ("caf\xe9 au lait".encode("cp1252"), "café au lait"),
        (b"tab\tpage\x0ccolour\x1b[31m", "tab\tpage\x0ccolour\x1b[31m"),
        (b"\x7fELF\x02\x01\x01\x00", None),
        (bytes(range(128, 256)), None),
        (b"a\x00b", None),
    ],
)
def test_text_is_told_by_its_content(content: bytes, text: str | None) -> None:
    assert text_of(content) == text


def test_a_file_stands_in_a_fence_that_it_has_none_of() -> None:
    file = TextFile("a.md", "text\n````\ncode\n````\n")
    assert file.quoted() == "a.md:\n\n`````\ntext\n````\ncode\n````\n`````"
    assert file.label() == "a.md, 4 lines"
    message = f"{file.quoted()}\n\n{TextFile('b', 'x').quoted()}\n\nWhat is it?"
    files, rest = split_quoted(message)
    assert [(one.name, one.text) for one in files] == [
        ("a.md", file.text.removesuffix("\n")),
        ("b", "x"),
    ]
    assert rest == "What is it?"
    assert split_quoted("no file here\n\n```\nx\n```") == ([], "no file here\n\n```\nx\n```")


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\x00\x01", "is no text"), (b"x" * 200, "bytes")],
)
def test_what_cannot_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, text: str
) -> None:
    monkeypatch.setattr(text_files, "MOST_TEXT", 100)
    (tmp_path / "a file").write_bytes(content)
    with pytest.raises(MediaError, match=text):
        read_text_file(tmp_path / "a file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("folder", r"folder is a folder: \S+folder/\* takes the files in it\.$"),
        ("none", "No such file"),
    ],
)
def test_what_is_no_file_says_so(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match=text):
        read_text_file(tmp_path / name)


# --- PDFs --------------------------------------------------------------------------------------


def test_the_text_of_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(pdf("First page", "Second page"))
    file = read_text_file(tmp_path / "report")
    assert file == TextFile("report", "[page 1]\nFirst page\n\n[page 2]\nSecond page")


def test_the_pages_of_a_pdf_are_pictures(tmp_path: Path) -> None:
    import base64

    from PIL import Image

    path = tmp_path / "my report.pdf"
    path.write_bytes(pdf("One", "Two"))
    pages = read_sources("image", str(path))
    assert [page.kind for page in pages] == ["image", "image"]
    kind, _, data = str(pages[0].source).partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(picture.size) == 1568
    assert picture.convert("L").getextrema() == (0, 255)


def test_a_pdf_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 nothing of one")
    with pytest.raises(MediaError, match="damaged, or no PDF"):
        read_text_file(tmp_path / "a.pdf")
    (tmp_path / "b.pdf").write_bytes(pdf(""))
    with pytest.raises(MediaError, match="/image sends its pages"):
        read_text_file(tmp_path / "b.pdf")


def test_what_reads_pdfs_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("One"))
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MediaError, match=r"pip install 'quire-llm\[pdf\]'"):
        read_text_file(tmp_path / "a.pdf")


# --- in the chat -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my notes.txt").write_text("one\ntwo\n")
    (tmp_path / "code").write_text("x = 1\n")
    (tmp_path / "a picture.png").write_bytes(b"a file")
    (tmp_path / "photo.HEIC").write_bytes(b"a file")
    return tmp_path


NOTES = "my notes.txt:\n\n```\none\ntwo\n```"
CODE = "code:\n\n```\nx = 1\n```"


@pytest.mark.parametrize("spelling", ["{}/my notes.txt", "'{}/my notes.txt'", "{}/my\\ notes.txt"])
def test_a_file_goes_with_the_next_message(folder: Path, spelling: str) -> None:
    contents, shown = asked(f"/file {spelling.format(folder)}", "What is it?", "And now?")
    assert contents == [f"{NOTES}\n\nWhat is it?", "And now?"]
    assert "Attached my notes.txt, 2 lines, 2 tokens; it goes with the next message." in shown


def test_several_files_of_several_kinds(folder: Path) -> None:
    names = f"'{folder}/my notes.txt' {folder}/code '{folder}/a picture.png'"
    contents, shown = asked(f"/file {names}", "/file", "What?")
    text = f"{NOTES}\n\n{CODE}\n\nWhat?"
    assert contents == [[part("image", folder / "a picture.png"), text_part(text)]]
    assert "[file: code, 1 line] [image: a picture.png]" in " ".join(shown.split())


def test_files_are_taken_off(folder: Path) -> None:
    contents, shown = asked(f"/read {folder}/code", "/file off", "What?")
    assert contents == ["What?"]
    assert "Nothing is attached." in shown


def test_the_history_shows_the_name_alone(folder: Path) -> None:
    file = folder / "chat.json"
    lines = (f"/file {folder}/code", "What is it?", f"/save {file}", "/clear", f"/load {file}")
    shown = " ".join(converse(*lines)[2].split())
    assert "> [file: code, 1 line] What is it?" in shown
    session = Session()
    session.load(file)
    assert session.title == "[file: code, 1 line] What is it?"
    assert f"## You\n\n{CODE}\n\nWhat is it?" in to_markdown(session, "m")


@pytest.mark.parametrize("command", ["/file", "/image"])
def test_heic_is_named(folder: Path, command: str) -> None:
    contents, shown = asked(f"{command} {folder}/photo.HEIC", f"{folder}/photo.HEIC", "Hello")
    assert contents == ["Hello"]
    assert " ".join(shown.split()).count("save it as JPEG or PNG") == 2


@pytest.mark.parametrize(
    ("text", "files", "rest"),
    [
        ("{}/a picture.png", ["a picture.png"], ""),
        ("{}/a picture.png what is it?", ["a picture.png"], "what is it?"),
        ("what is {}/a picture.png ?", ["a picture.png"], "what is ?"),
        ("{}/my notes.txt", ["my notes.txt"], ""),
        ("'{}/my notes.txt' sum it up", ["my notes.txt"], "sum it up"),
        ("{}/code {}/a picture.png\nwhat?", ["code", "a picture.png"], "what?"),
        ("{}/my notes.txt\nwhat?", ["my notes.txt"], "what?"),
        ("what is in {}/code", [], "what is in {}/code"),
        ("`{}/code`", [], "`{}/code`"),
        ("/etc/no such file.png", [], "/etc/no such file.png"),
    ],
)
def test_dropped_files(folder: Path, text: str, files: list[str], rest: str) -> None:
    """A picture anywhere, a text where its path begins the message; with blanks as they are."""
    found, left = split_dropped(text.replace("{}", str(folder)))
    names = [Path(one.source).name if isinstance(one, Media) else one.name for one in found]
    assert names == files
    assert " ".join(left.split()) == rest.replace("{}", str(folder))


# --- in a filter -------------------------------------------------------------------------------


def test_files_go_with_a_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = FakeChatModel()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    words = ["-f", f"{folder}/my notes.txt", "--file", f"{folder}/a picture.png"]
    assert main(["chat", "m", "-p", "What?", *words], make_model=lambda _: model) == 0
    (message,) = model.requests[0]["messages"]
    assert message["content"] == [
        part("image", folder / "a picture.png"),
        text_part(f"{NOTES}\n\nWhat?"),
    ]
    assert main(["chat", "m", "-p", "What?", "-f", "/nowhere"], make_model=lambda _: model) == 2
    assert "No such file" in capsys.readouterr().err
