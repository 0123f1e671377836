"""Text as data: windows of equal length, or its lines, in three parts that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._checks import require_counts
from ..alphabet import BYTES, alphabet_of, tokenizer_of
from ..space import Events, Ragged, Space
from .base import Dataset
from .files import digest
from .folder import SUFFIXES as PICTURES

SUFFIXES = (".txt", ".md", ".rst", ".py", ".tex", ".html", ".json", ".c", ".h", ".cpp")
LENGTH = 128
"""Symbols of a window, if nobody says."""
LINE = 80
"""Symbols of the longest line that is kept, if nobody says."""
VALID, TEST = 0.05, 0.1
"""Shares of the text that validate and test: its last ones."""


class Tokenizer(Protocol):
    """Whatever makes integers of a text and a text of integers, as those of Hugging Face's `tokenizers` do."""

    def encode(self, text: str) -> Any: ...

    def decode(self, ids: list[int]) -> str: ...


def text_dataset(
    name: str, text: str, length: int = LENGTH, *, tokenizer: Tokenizer | str | None = None, symbols: int | None = None
) -> Dataset:
    """A text as windows (N, length) of symbols: 85 % to train on, then 5 % to validate, and the last 10 % to test.

    Symbols are its characters, or the bytes of its UTF-8 where it has more than 256 different ones; the space has the
    alphabet. A ``tokenizer`` says otherwise: the text of a tokenizer.json, which the space has then; or one of your
    own, with how many ``symbols`` it has, which the space knows nothing of. Parts end between windows, so that none is
    in two, and a rest that fills no window is left out. Raises ValueError for a text too short for a window in each
    part.

    >>> from pyflowk.datasets.text import text_dataset
    >>> text_dataset("song", "la " * 100, length=8)
    Dataset(song: 31 / 2 / 4 samples of 8 of 3 symbols)
    """
    require_counts("text_dataset", length=length)
    if tokenizer is None or isinstance(tokenizer, str):
        space = space_of(text, length, tokenizer)
        return in_order(name, space, events_of(text, space))
    require_counts("a tokenizer", symbols=symbols)
    found = tokenizer.encode(text)
    ids = torch.as_tensor(getattr(found, "ids", found))
    return in_order(name, Space((length,), symbols=symbols), _windows(ids, length))


def line_dataset(name: str, text: str, length: int = LINE, *, tokenizer: str | None = None) -> Dataset:
    """The lines of a text, but for those that are empty or longer than ``length``, as rows of several lengths.

    Parts, symbols and the ``tokenizer``, the text of a tokenizer.json, are as in :func:`text_dataset`.

    >>> from pyflowk.datasets.text import line_dataset
    >>> line_dataset("count", "one\\ntwo\\nthree\\n" * 20)
    Dataset(count: 51 / 3 / 6 samples of up to 80 of 7 symbols)
    """
    require_counts("line_dataset", length=length)
    space = space_of(text, length, tokenizer, lines=True)
    return in_order(name, space, events_of(text, space))


def space_of(text: str, length: int, tokenizer: str | None = None, *, lines: bool = False) -> Space:
    """What windows of a text are, or its ``lines``, by its own characters, or by the text of a tokenizer.json."""
    if tokenizer is not None:
        symbols = 1 + max(tokenizer_of(tokenizer).get_vocab(with_added_tokens=True).values())
        return Space((length,), symbols=symbols, variable=lines, tokenizer=tokenizer)
    alphabet = alphabet_of("".join(_lines(text, length)) if lines else text)
    alphabet = alphabet if len(alphabet) <= len(BYTES) else BYTES
    return Space((length,), symbols=len(alphabet), variable=lines, alphabet=alphabet)


def events_of(text: str, space: Space) -> Events:
    """The windows of a text, or its lines where events have lengths, in the symbols of a space, one after the other.

    Raises ValueError for characters that the space lacks, and where no line is short enough.
    """
    length = space.shape[0]
    if not space.variable:
        return _windows(_small(space.encode(text), space), length)
    if space.alphabet is None:
        rows = [space.encode(line) for line in _lines(text)]
    else:  # as one text, and without lines that are too long, which may have characters that the space lacks
        lines = _lines(text, length)
        sizes = [len(line.encode() if space.alphabet == BYTES else line) for line in lines]
        rows = [*_small(space.encode("".join(lines)), space).split(sizes)]
    kept = [row for row in rows if 0 < len(row) <= length]
    if not kept:
        raise ValueError(f"expected lines of up to {length} symbols, got none")
    return Ragged.of(kept)


def read_text(paths: Sequence[Path]) -> str:
    """Files of UTF-8, one after the other with a line between them; ValueError for one that is no such text."""
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected a text in UTF-8, got bytes that are none ({error.reason})") from error
    return "\n".join(texts)


def load_text(name: str, size: int | None = None, *, lines: bool = False, tokenizer: str | None = None) -> Dataset:
    """The windows, or the ``lines``, of the user's own text, a file or a folder; ValueError for a path of none."""
    path = Path(name).expanduser()
    if not (files := texts_at(path)):
        option, endings = "lines" if lines else "tokenizer", ", ".join(SUFFIXES)
        raise ValueError(f"{option}: expected a text of your own, a file ending in {endings} or a folder; got {name}")
    length = (LINE if lines else LENGTH) if size is None else size
    if lines:
        return line_dataset(str(path), read_text(files), length, tokenizer=tokenizer)
    return text_dataset(str(path), read_text(files), length, tokenizer=tokenizer)


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


def _lines(text: str, most: int | None = None) -> list[str]:
    """The lines that are not empty, of at most so many characters."""
    return [line for line in text.splitlines() if line.strip() and (most is None or len(line) <= most)]


def _small(ids: Tensor, space: Space) -> Tensor:
    """The same in as few bytes as symbols need that stand for characters."""
    return ids if space.tokenizer is not None else ids.to(torch.uint8)


def _windows(ids: Tensor, length: int) -> Tensor:
    return ids[: len(ids) // length * length].reshape(-1, length)


def in_order(name: str, space: Space, rows: Events) -> Dataset:
    """Rows of a text in three parts that follow each other; ValueError where there are too few."""
    count, size = len(rows), space.shape[0]
    last = count - round(count * TEST)
    first = last - max(1, round(count * VALID))
    if first < 1 or last == count:
        what = f"lines of up to {size} symbols" if space.variable else f"windows of {size} symbols"
        raise ValueError(f"{name}: expected a text of at least 10 {what}, got {count}")
    parts = rows[:first], rows[first:last], rows[last:]
    return Dataset(name, space, *parts, fingerprint=digest(*parts))
