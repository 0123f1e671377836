"""The sources of Python's own library, which every CPython brings."""

from __future__ import annotations

import platform
import sysconfig
from dataclasses import replace
from pathlib import Path

from ..base import Dataset
from ..registry import register
from ..text import read_text, text_dataset


@register("stdlib-source", "the sources of Python's library, windows of 128 bytes")
def load_stdlib_source(seed: int) -> Dataset:
    """Some 30 MB in windows of 128 bytes: all modules but those installed beside the library; the last tenth tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [p for p in sorted(library.rglob("*.py")) if "site-packages" not in p.parts and _is_utf8(p)]
    data = text_dataset("stdlib-source", read_text(paths))
    return replace(data, notes=(f"{len(paths):,} files of Python {platform.python_version()}",))


def _is_utf8(path: Path) -> bool:
    """A few files are there to test other encodings."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True
