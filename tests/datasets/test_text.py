"""Text as data: what its symbols are, where its parts end, and which files are text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyflowk import datasets
from pyflowk.alphabet import BYTES, alphabet_of, decode, encode, tokenizer_of
from pyflowk.cli import main
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


WRITTEN = json.dumps(
    {
        "version": "1.0",
        "padding": None,
        "decoder": None,
        "normalizer": None,
        "added_tokens": [],
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "?", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"?": {"id": "?", "ids": [0], "tokens": ["?"]}},
        },
        "model": {
            "type": "WordLevel",
            "unk_token": "?",
            "vocab": {w: i for i, w in enumerate(("?", *sorted(set(TEXT.split()))))},
        },
    }
)
"""Words are tokens; it would cut texts after three of them and put another one in front."""


class Words:
    """What is asked of a `tokenizers.Tokenizer`, for machines without that package."""

    def __init__(self, vocab: dict[str, int]) -> None:
        self.vocab, self.cuts = vocab, True

    @classmethod
    def from_str(cls, written: str) -> Words:
        return cls(json.loads(written)["model"]["vocab"])

    def no_truncation(self) -> None:
        self.cuts = False

    def no_padding(self) -> None:
        pass

    def get_vocab(self, with_added_tokens: bool) -> dict[str, int]:
        return self.vocab

    def encode(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = [0] * add_special_tokens + [self.vocab.get(word, 0) for word in text.split()]
        return SimpleNamespace(ids=ids[: 3 if self.cuts else None])

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(list(self.vocab)[i] for i in ids)


@pytest.fixture(params=["as it is", "in its place"])
def tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tokenizer.json above, which tokenizers reads, or what stands for it."""
    if request.param == "as it is":
        pytest.importorskip("tokenizers")
    else:
        monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=Words))  # type: ignore[arg-type]
    tokenizer_of.cache_clear()
    yield WRITTEN
    tokenizer_of.cache_clear()


def test_tokens_of_a_file_are_symbols_and_the_space_has_it(tokens: str, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(TEXT, encoding="utf-8")
    whole, lines = (datasets.load(str(book), size=9, tokenizer=tokens, lines=lines) for lines in (False, True))
    assert whole.space.symbols == lines.space.symbols == 9 and not whole.space.variable
    assert (whole.train[0] > 0).all() and whole.space.decode(whole.train[0].tolist()) == TEXT.splitlines()[0]
    assert lines.train.lengths.unique().tolist() == [9] and lines.space.variable and lines.origin["lines"]
    again = Space.from_json(json.loads(json.dumps(lines.space.as_json())))
    assert again == lines.space and again.encode("fox dog the hen").tolist() == [3, 2, 8, 0]
    with pytest.raises(ValueError, match=r"lines: expected a text of your own, .* got help-topics"):
        datasets.load("help-topics", lines=True)
    with pytest.raises(ValueError, match="tokenizer: expected symbols, and no alphabet beside it"):
        Space((3,), symbols=2, alphabet="ab", tokenizer=tokens)


def test_a_run_keeps_its_tokenizer(
    tokens: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    book, other, file, run = (str(tmp_path / name) for name in ("book.txt", "other.txt", "tokenizer.json", "run"))
    for path, text in ((book, TEXT), (other, "the lazy fox\n\nthe hen\n"), (file, tokens)):
        Path(path).write_text(text, encoding="utf-8")
    small = ["--threads", "1", "--steps", "2", "--cpu", "--no-tensorboard"]
    text = ["--data", book, "--lines", "--tokenizer", file, "--set", "width=8", "depth=1", "--sampling", "steps=2"]
    assert main(["train", "edit_flow", "--out", run, *text, *small]) == 0
    assert "drawing samples" in capsys.readouterr().out
    Path(file).write_text("{}", encoding="utf-8")
    assert main(["sample", run, "--prefix", "the quick", "-n", "3", "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("\nthe quick") == 3
    assert main(["sample", run, "--sampling", "prefix=the"]) == 2
    assert "--sampling prefix: --prefix says what" in capsys.readouterr().err
    for data, what in ((other, "all 2 samples of"), (book, "the test set of")):
        assert main(["eval", run, "--data", data, "--threads", "1"]) == 0
        assert f"edit_flow on {what} {data}" in capsys.readouterr().out
    assert main(["share", run]) == 0 and main(["sample", f"{run}/shared", "--prefix", "dog", "-n", "2"]) == 0
    assert capsys.readouterr().out.count("\ndog") == 2
    card = Path(run, "shared", "README.md").read_text(encoding="utf-8")
    assert re.search(r"best validation loss \| [\d.]+ nats \|", card)  # of rows of several lengths no bits/symbol
    assert main(["train", "--resume", "--out", run, "--tokenizer", file, *small]) == 0
    said = capsys.readouterr()
    assert f"ignored: --tokenizer {file} (the run has one of its own)" in said.err and "at step 2" in said.out
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as where it is not installed
    tokenizer_of.cache_clear()
    assert main(["sample", run, "-n", "2"]) == 2
    assert "tokenizer: expected tokenizers to be installed, pip install tokenizers" in capsys.readouterr().err


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
