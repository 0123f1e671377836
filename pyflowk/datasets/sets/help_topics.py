"""The help texts that every CPython brings: the least of real text, without a download."""

from __future__ import annotations

import platform
from dataclasses import replace

from ..base import Dataset
from ..registry import register
from ..text import line_dataset, text_dataset


def _text() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _told(data: Dataset, text: str) -> Dataset:
    """Which text it is: another version of Python brings another one."""
    return replace(data, notes=(f"the help texts of Python {platform.python_version()}, {len(text):,} characters",))


@register("help-topics", "Python's help texts, windows of 128 characters")
def load_help_topics(seed: int) -> Dataset:
    """About 465,000 characters of some 100 kinds, `pydoc_data.topics`, in windows of 128; the last tenth tests."""
    text = _text()
    return _told(text_dataset("help-topics", text), text)


@register("help-lines", "the same, lines of up to 80 characters")
def load_help_lines(seed: int) -> Dataset:
    """The lines of the same texts, of several lengths; the last tenth tests."""
    text = _text()
    return _told(line_dataset("help-lines", text), text)
