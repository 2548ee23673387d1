"""Which file of a folder is the model: what names and headers tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quire.errors import ModelNotFoundError
from quire.gguf.finding import find_gguf, is_gguf
from tests.gguf.chat_files import write_chat, write_other, write_split

OTHERS = ["mmproj", "clip", "imatrix", "adapter", "vocabulary", "eagle3"]


def find(folder: Path, quant: str | None = None) -> str:
    found = find_gguf(folder, quant, "FOLDER")
    assert found is not None
    return found.relative_to(folder).as_posix()


def test_a_folder_without_any(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_gguf(tmp_path, None, "FOLDER") is None


@pytest.mark.parametrize("kind", OTHERS)
def test_a_models_company_is_told_by_its_header(tmp_path: Path, kind: str) -> None:
    """Their names say nothing, and QUANT means both; see gpustack #2261, huggingface.js #2400."""
    write_chat(tmp_path / "b-MTP-Q6_K.gguf")
    write_other(tmp_path / "a-MTP-Q6_K.gguf", kind)
    assert find(tmp_path) == "b-MTP-Q6_K.gguf"
    assert find(tmp_path, "Q6_K") == "b-MTP-Q6_K.gguf"


def test_a_model_whose_name_says_that_it_is_none(tmp_path: Path) -> None:
    write_chat(tmp_path / "mmproj-merged.gguf")
    assert find(tmp_path) == "mmproj-merged.gguf"


def test_two_models_are_an_error_that_lists_them(tmp_path: Path) -> None:
    write_chat(tmp_path / "m-Q4_0.gguf")
    write_chat(tmp_path / "m-F16.gguf")
    write_other(tmp_path / "mmproj-F16.gguf", "mmproj")
    write_other(tmp_path / "lora.gguf", "adapter")
    with pytest.raises(ModelNotFoundError, match=r"FOLDER has 2 GGUF models: .*FOLDER:") as caught:
        find(tmp_path)
    assert "lora" not in str(caught.value)
    assert find(tmp_path, "f16") == "m-F16.gguf"
    with pytest.raises(ModelNotFoundError, match=r"no GGUF model Q8_0; it has"):
        find(tmp_path, "Q8_0")


def test_a_damaged_file_is_not_passed_over(tmp_path: Path) -> None:
    whole = write_chat(tmp_path / "m-Q4_0.gguf")
    (tmp_path / "m-Q8_0.gguf").write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models"):
        find(tmp_path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    write_other(tmp_path / "a.gguf", "adapter")
    write_other(tmp_path / "b.gguf", "vocabulary")
    with pytest.raises(ModelNotFoundError, match=r"none of them is a model") as caught:
        find(tmp_path)
    assert "a.gguf (an adapter), b.gguf (a vocabulary without weights)" in str(caught.value)


def test_parts_count_as_one_model(tmp_path: Path) -> None:
    first, second, _ = write_split(tmp_path, "m-Q4_0")
    assert find(tmp_path) == first.name
    assert find(tmp_path, "Q4_0") == first.name
    write_chat(tmp_path / "m-Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models"):
        find(tmp_path)
    second.unlink()
    with pytest.raises(ModelNotFoundError, match=rf"FOLDER lacks {second.name}"):
        find(tmp_path, "Q4_0")


def test_folders_of_quantisations(tmp_path: Path) -> None:
    write_chat(tmp_path / "Q4_0" / "m.gguf")
    assert find(tmp_path) == "Q4_0/m.gguf"
    write_chat(tmp_path / "Q8_0" / "m.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models: Q4_0"):
        find(tmp_path)
    assert find(tmp_path, "Q8_0") == "Q8_0/m.gguf"
    write_chat(tmp_path / "m-F16.gguf")
    assert find(tmp_path) == "m-F16.gguf", "what lies in the folder itself comes first"
    assert find(tmp_path, "q4_0") == "Q4_0/m.gguf"


def test_a_folder_inside_a_models_folder_is_another_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_chat(tmp_path / "other" / "m.gguf")
    assert find_gguf(tmp_path, None, "FOLDER") is None


def test_pieces_of_a_cut_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part1of2").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"part1of2 is a piece.*with cat"):
        find(tmp_path)


def test_a_file_is_told_by_its_magic(tmp_path: Path) -> None:
    whole = write_chat(tmp_path / "m.gguf")
    shutil.copy(whole, tmp_path / "sha256-0")
    assert is_gguf(tmp_path / "sha256-0")
    (tmp_path / "text").write_text("GGU")
    assert not is_gguf(tmp_path / "text")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "nothing")
