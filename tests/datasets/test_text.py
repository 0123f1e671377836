"""Text as data: what its symbols are, where its parts end, and which files are text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyflowk import datasets
from pyflowk.alphabet import BYTES, alphabet_of, decode, encode
from pyflowk.datasets.text import line_dataset, text_dataset
from pyflowk.space import Ragged, Space

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20


def test_text_comes_back() -> None:
    for alphabet in (alphabet_of(TEXT), BYTES):
        assert decode(encode(TEXT, alphabet), alphabet) == TEXT
    assert decode(encode("naïve 😀", BYTES), BYTES) == "naïve 😀" and decode([0xFF], BYTES) == "\ufffd"
    with pytest.raises(ValueError, match=r"expected each character to be one of 28 .* knows, got '!', 'Q'"):
        encode("Quick!", alphabet_of(TEXT))
    with pytest.raises(ValueError, match="expected a text, got one without characters"):
        alphabet_of("")


def test_an_alphabet_is_part_of_the_space() -> None:
    space = Space((8,), symbols=3, alphabet="abn")
    assert Space.from_json(space.as_json()) == space != Space((8,), symbols=3)
    with pytest.raises(ValueError, match="one character for each of 3 symbols, got 3 characters, 2 of them different"):
        Space((8,), symbols=3, alphabet="aba")
    with pytest.raises(ValueError, match="one character for each of None symbols"):
        Space((8,), alphabet="abn")
    with pytest.raises(TypeError, match="alphabet: expected a string, got 5"):
        Space((8,), symbols=1, alphabet=5)


def test_parts_follow_each_other() -> None:
    data = text_dataset("fox", TEXT, length=10)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [75, 4, 9]
    whole = torch.cat((data.train, data.valid, data.test)).flatten()
    assert decode(whole, data.space.alphabet) == TEXT and data.train.dtype == torch.uint8
    with pytest.raises(ValueError, match="fox: expected a text of at least 10 windows of 400 symbols, got 2"):
        text_dataset("fox", TEXT, length=400)
    wide = text_dataset("wide", "".join(map(chr, range(0x4E00, 0x4F40))) * 2, length=9)
    assert wide.space.alphabet == BYTES


def test_lines_have_several_lengths() -> None:
    data = line_dataset("lines", "one\n\nthree\n" * 20 + "a line that is longer than twenty\n", length=20)
    assert isinstance(data.train, Ragged) and data.train.lengths[:4].tolist() == [3, 5, 3, 5]
    assert decode(data.test.row(0), data.space.alphabet) in ("one", "three") and data.space.variable


def test_a_tokenizer_of_ones_own() -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [sorted(set(text.split())).index(word) for word in text.split()]

        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids))

    data = text_dataset("words", TEXT, length=9, tokenizer=Words(), symbols=8)
    assert data.space == Space((9,), symbols=8) and data.train[0].tolist() == [7, 6, 0, 2, 3, 5, 7, 4, 1]
    with pytest.raises(TypeError, match="a tokenizer expects symbols"):
        text_dataset("words", TEXT, tokenizer=Words())


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeff" + TEXT, encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.md").write_text(TEXT, encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("?", encoding="utf-8")
    one, both = (datasets.load(str(path), size=16) for path in (tmp_path / "a.txt", tmp_path))
    assert one.space.alphabet == both.space.alphabet == alphabet_of(TEXT) and one.space.shape == (16,)
    assert sum(len(both.part(name)[0]) for name in ("train", "valid", "test")) == (2 * len(TEXT) + 1) // 16
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"b\.txt: expected a text in UTF-8"):
        datasets.load(str(tmp_path / "b.txt"))


def test_the_texts_of_python() -> None:
    data = datasets.load("help-topics")
    assert data.space.shape == (128,) and 128 * sum(len(data.part(p)[0]) for p in ("train", "valid", "test")) > 400_000
    assert "assert" in decode(data.train[:20].flatten(), data.space.alphabet)
    assert "the help texts of Python 3" in data.notes[0]
