"""`pyflowk selfcheck`: print the report of `pyflowk.selfcheck`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import selfcheck as checks

if TYPE_CHECKING:
    from .commands import Selfcheck


def selfcheck(command: Selfcheck) -> int:
    """Check and time every op on every back end; exit status 1 when one is wrong or cannot be checked."""
    if not 0 < command.megabytes <= 1e6:
        raise ValueError(f"--megabytes: expected a number > 0, at most 1e6, got {command.megabytes}")
    report = checks.run(megabytes=command.megabytes)
    print(report.text())
    return 0 if report.ok else 1
