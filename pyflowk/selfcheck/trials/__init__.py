"""How every op is tried: a file an op, whose `TRIALS` holds a trial for each op that it registers.

The files are found by themselves; an op without a trial fails the check.
"""

from __future__ import annotations

import importlib
import pkgutil

from ..trial import Trial

__all__ = ["TRIALS"]

TRIALS: dict[str, Trial] = {}
for _module in pkgutil.iter_modules(__path__):
    TRIALS |= importlib.import_module(f"{__name__}.{_module.name}").TRIALS
