"""Text as data: windows of equal length, or its lines, in three parts that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._checks import require_counts
from ..alphabet import BYTES, alphabet_of, encode
from ..space import Ragged, Space
from .base import Dataset
from .files import digest
from .folder import SUFFIXES as PICTURES

SUFFIXES = (".txt", ".md", ".rst", ".py", ".tex", ".html", ".json", ".c", ".h", ".cpp")
LENGTH = 128
"""Symbols of a window, if nobody says."""
VALID, TEST = 0.05, 0.1
"""Shares of the text that validate and test: its last ones."""


class Tokenizer(Protocol):
    """Whatever makes integers of a text and a text of integers, as those of Hugging Face's `tokenizers` do."""

    def encode(self, text: str) -> Any: ...

    def decode(self, ids: list[int]) -> str: ...


def text_dataset(
    name: str, text: str, length: int = LENGTH, *, tokenizer: Tokenizer | None = None, symbols: int | None = None
) -> Dataset:
    """A text as windows (N, length) of symbols: 85 % to train on, then 5 % to validate, and the last 10 % to test.

    Symbols are its characters, or the bytes of its UTF-8 where it has more than 256 different ones; the space has the
    alphabet. A ``tokenizer`` of your own says otherwise, and how many ``symbols`` it has, where they have no alphabet.
    Parts end between windows, so that none is in two, and a rest that fills no window is left out. Raises ValueError
    for a text too short for a window in each part.

    >>> from pyflowk.datasets.text import text_dataset
    >>> text_dataset("song", "la " * 100, length=8)
    Dataset(song: 31 / 2 / 4 samples of 8 of 3 symbols)
    """
    require_counts("text_dataset", length=length)
    if tokenizer is None:
        ids, alphabet = _symbols(text)
        symbols = len(alphabet)
    else:
        require_counts("a tokenizer", symbols=symbols)
        found = tokenizer.encode(text)
        ids, alphabet = torch.as_tensor(getattr(found, "ids", found)), None
    rows = ids[: len(ids) // length * length].reshape(-1, length)
    space = Space((length,), symbols=symbols, alphabet=alphabet)
    return _in_order(name, space, rows, f"windows of {length} symbols")


def line_dataset(name: str, text: str, length: int = 80) -> Dataset:
    """The lines of a text, but for those that are empty or longer than ``length``, as rows of several lengths.

    Parts and symbols are as in :func:`text_dataset`.

    >>> from pyflowk.datasets.text import line_dataset
    >>> line_dataset("count", "one\\ntwo\\nthree\\n" * 20)
    Dataset(count: 51 / 3 / 6 samples of up to 80 of 7 symbols)
    """
    require_counts("line_dataset", length=length)
    lines = [line for line in text.splitlines() if line.strip() and len(line) <= length]
    ids, alphabet = _symbols("".join(lines))
    if alphabet == BYTES:
        lines = [line for line in lines if len(line.encode()) <= length]
        ids, alphabet = encode("".join(lines), BYTES).to(torch.uint8), BYTES
    sizes = [len(line if alphabet != BYTES else line.encode()) for line in lines]
    space = Space((length,), symbols=len(alphabet), variable=True, alphabet=alphabet)
    return _in_order(name, space, Ragged.of(ids.split(sizes)), "lines")


def read_text(paths: Sequence[Path]) -> str:
    """Files of UTF-8, one after the other with a line between them; ValueError for one that is no such text."""
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected a text in UTF-8, got bytes that are none ({error.reason})") from error
    return "\n".join(texts)


def texts_at(path: Path) -> list[Path]:
    """A file of text, by its suffix, or those below a folder without pictures, in order and without hidden ones."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in SUFFIXES else []
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
    if any(p.suffix.lower() in PICTURES for p in files):
        return []
    return [p for p in files if p.suffix.lower() in SUFFIXES]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _symbols(text: str) -> tuple[Tensor, str]:
    """The symbols of a text in as few bytes as they need, and their alphabet."""
    alphabet = alphabet_of(text)
    alphabet = alphabet if len(alphabet) <= len(BYTES) else BYTES
    return encode(text, alphabet).to(torch.uint8), alphabet


def _in_order(name: str, space: Space, rows: Any, what: str) -> Dataset:
    count = len(rows)
    last = count - round(count * TEST)
    first = last - max(1, round(count * VALID))
    if first < 1 or last == count:
        raise ValueError(f"{name}: expected a text of at least 10 {what}, got {count}")
    parts = rows[:first], rows[first:last], rows[last:]
    return Dataset(name, space, *parts, fingerprint=digest(*parts))
