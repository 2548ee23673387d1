"""Documents of office programs: their text, what is refused, and that nothing else comes of any file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.cli.chat.documents.reading import document_text
from quire.cli.chat.text_files import TextFile, read_text_file
from quire.errors import MediaError
from tests.cli.chat.test_attachments import asked
from tests.documents.archives import FILES, REFUSED, TEXTS, WRITTEN, Case, p, word
from tests.documents.random_documents import random_document
from tests.properties import EVERY_CHECK


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.name)
def test_the_text_of_a_document(tmp_path: Path, case: Case) -> None:
    (tmp_path / "any name").write_bytes(case.content)
    assert document_text(tmp_path / "any name") == case.text


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_other_programs_wrote(path: Path) -> None:
    text = path.with_name(f"{path.name}.txt").read_text(encoding="utf-8")
    assert document_text(path) == text.removesuffix("\n")


def test_both_forms_of_one_text_are_read_alike() -> None:
    assert document_text(FILES / "pandoc.docx") == document_text(FILES / "pandoc.odt")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_cannot_be_read_says_why(tmp_path: Path, case: Case) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.content)
    with pytest.raises(MediaError) as caught:
        read_text_file(path)
    assert str(caught.value) == f"Cannot read {case.name}: {case.text}."


def test_a_document_without_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.docx").write_bytes(word(p()))
    with pytest.raises(MediaError, match=r"^empty\.docx holds no text\.$"):
        read_text_file(tmp_path / "empty.docx")


def test_a_document_goes_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_bytes(word(p("Dear all,") + p("good bye.")))
    contents, shown = asked(f"/file {tmp_path}/letter.docx", "What is it?")
    text = TextFile("letter.docx", "Dear all,\n\ngood bye.").quoted()
    assert contents == [f"{text}\n\nWhat is it?"]
    assert "Attached letter.docx, 3 lines" in shown


def read(path: Path, content: bytes) -> None:
    """Read a file; what it raises is of the tree."""
    path.write_bytes(content)
    with suppress(MediaError):
        assert read_text_file(path).text.strip()


@settings(max_examples=150, deadline=None, suppress_health_check=EVERY_CHECK)
@given(seed=st.integers(0, 2**32))
def test_any_elements_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    read(tmp_path / "any.docx", random_document(Random(seed)))


@settings(max_examples=300, deadline=None, suppress_health_check=EVERY_CHECK)
@given(data=st.data(), path=st.sampled_from(WRITTEN))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly at the end, where the directory of the archive is.
        back = data.draw(st.integers(1, data.draw(st.sampled_from([1000, len(content)]))))
        content[-back] = data.draw(st.integers(0, 255))
    read(tmp_path / "any.docx", bytes(content[: data.draw(st.integers(len(content) // 2, 2**20))]))
