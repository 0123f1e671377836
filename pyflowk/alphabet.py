"""Text as symbols and back: an alphabet is a string, whose i-th character is what symbol i stands for.

`alphabet_of` makes one of a text, `BYTES` serves every text; `encode` and `decode` go there and back. Where symbols are
tokens, `tokenizer_of` reads what says so, a tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["BYTES", "alphabet_of", "decode", "encode", "tokenizer_of"]

BYTES = bytes(range(256)).decode("latin-1")
"""The alphabet of bytes: its 256 symbols are those of UTF-8, in which every text can be written."""


def alphabet_of(text: str) -> str:
    """The characters that a text has, each once, sorted; ValueError for a text without any.

    >>> from pyflowk.alphabet import alphabet_of
    >>> alphabet_of("banana")
    'abn'
    """
    if not text:
        raise ValueError("expected a text, got one without characters")
    return "".join(sorted(set(text)))


def check_alphabet(alphabet: object, symbols: int | None) -> None:
    """Raise TypeError or ValueError unless it is a string of so many characters, each of them once."""
    if not isinstance(alphabet, str):
        raise TypeError(f"alphabet: expected a string, got {alphabet!r}")
    if symbols != len(alphabet) or len(set(alphabet)) != len(alphabet):
        got = f"{len(alphabet)} characters, {len(set(alphabet))} of them different"
        raise ValueError(f"alphabet: expected one character for each of {symbols} symbols, got {got}")


def encode(text: str, alphabet: str) -> Tensor:
    """The symbols of a text, (L,) int64; ValueError for characters that the alphabet lacks.

    With :data:`BYTES` they are the bytes of its UTF-8.

    >>> from pyflowk.alphabet import BYTES, encode
    >>> encode("nab", "abn"), encode("é", BYTES)
    (tensor([2, 0, 1]), tensor([195, 169]))
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected a string, got {type(text).__name__}")
    if alphabet == BYTES:
        return torch.tensor(list(text.encode()), dtype=torch.int64)
    codes = {character: code for code, character in enumerate(alphabet)}
    if lacking := sorted(set(text) - codes.keys()):
        known = f"one of {len(alphabet)} characters that the model knows"
        raise ValueError(f"text: expected each character to be {known}, got {', '.join(map(repr, lacking[:5]))}")
    return torch.tensor([codes[character] for character in text], dtype=torch.int64)


def decode(symbols: Tensor | Iterable[int], alphabet: str) -> str:
    """The text of symbols (L,); bytes that are no UTF-8 become the character that stands for such.

    >>> import torch
    >>> from pyflowk.alphabet import decode
    >>> decode(torch.tensor([2, 0, 1]), "abn")
    'nab'
    """
    ids = symbols.tolist() if isinstance(symbols, Tensor) else symbols
    text = "".join(alphabet[int(i)] for i in ids)
    return text.encode("latin-1").decode(errors="replace") if alphabet == BYTES else text


@lru_cache(maxsize=4)
def tokenizer_of(written: str) -> Any:
    """The tokenizer of Hugging Face's `tokenizers` that a tokenizer.json, given as its text, describes.

    It neither cuts nor pads, whatever the file says. Raises ImportError where tokenizers is not installed, ValueError
    for a text that describes none.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError("tokenizer: expected tokenizers to be installed, pip install tokenizers") from error
    try:
        found = Tokenizer.from_str(written)
    except Exception as error:  # tokenizers raises no other class
        raise ValueError(
            f"tokenizer: expected what a tokenizer.json of tokenizers says, got other text ({error})"
        ) from error
    found.no_truncation()
    found.no_padding()
    return found
