"""Training for every system of the zoo, on accelerate: it knows `zoo.GenerativeModel` and nothing else.

A `Trainer` runs a `TrainConfig` to a `Result`; `NonFiniteLoss` ends it where numbers end. `load_model` gives a trained
model and its `Checkpoint` (`CheckpointError` for what is none), `Pretrained` shares one; `evaluate`, `log_prob` and
`sample` use it, in batches.
`Threads` measures how many threads a loop's steps take.

Names are looked up on first use, so that a command line can read `TrainConfig` without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointError, load_model
    from .config import TrainConfig
    from .evaluation import evaluate, log_prob, sample
    from .nonfinite import NonFiniteLoss
    from .sharing import Pretrained
    from .threads import Threads
    from .trainer import Result, Trainer

_HOME = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "NonFiniteLoss": "nonfinite",
    "Pretrained": "sharing",
    "Result": "trainer",
    "Threads": "threads",
    "TrainConfig": "config",
    "Trainer": "trainer",
    "evaluate": "evaluation",
    "load_model": "checkpoint",
    "log_prob": "evaluation",
    "sample": "evaluation",
}
__all__ = [
    "Checkpoint",
    "CheckpointError",
    "NonFiniteLoss",
    "Pretrained",
    "Result",
    "Threads",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "load_model",
    "log_prob",
    "sample",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
