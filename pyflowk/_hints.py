"""What somebody may have meant: one helper for every list of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`" (did you mean 'realnvp'?)"` where one of the known names is close, or nothing.

    >>> did_you_mean("realnpv", ["nice", "realnvp"])
    " (did you mean 'realnvp'?)"
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""
