"""What a user may choose about training. No torch here: the command line reads this file to print its help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

BUDGET = ("steps", "epochs", "minutes")
"""How a budget can be told: by one of these, all that a resumed run may change beside `HELPERS`."""
HELPERS = ("threads", "workers")
"""What changes the time that a run takes, and no more than the rounding of its numbers."""
_LARGEST = 2**63 - 1
_COUNTS = {
    "steps": (1, _LARGEST), "batch_size": (1, 2**24), "warmup": (0, _LARGEST), "log_every": (1, _LARGEST),
    "validate_every": (1, _LARGEST), "validate_samples": (1, _LARGEST), "save_every": (1, _LARGEST),
    "sample_every": (0, _LARGEST), "seed": (0, _LARGEST), "threads": (1, 2**16),
    "workers": (0, 2**10),
}  # fmt: skip
"""Whole numbers and their ranges: 64-bit integers, and batches that fit into a memory."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run. One of `steps`, `epochs`, `minutes` is the budget; with none it is one minute.

    `pyflowk train --help` says what each is.

    >>> from pyflowk.training import TrainConfig
    >>> TrainConfig(lr=-1.0)
    Traceback (most recent call last):
    ValueError: lr: expected a number > 0, got -1.0
    """

    steps: int | None = None
    """Budget in optimizer steps."""
    epochs: float | None = None
    """Budget in passes over the training set."""
    minutes: float | None = None
    """Budget in minutes of training, validation included, in all: with --resume those before count, too; 1 when no
    budget is given."""
    batch_size: int = 128
    """Samples per step, over all processes together; N processes are started by putting
    `torchrun --nproc-per-node=N -m pyflowk` (or `accelerate launch --multi_gpu --num_processes=N -m pyflowk`) in place
    of `pyflowk`, on the CPU too."""
    lr: float = 5e-3
    """Peak learning rate of AdamW."""
    warmup: int = 100
    """Steps of linear warm-up; a cosine to zero over the whole budget follows."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of weight matrices; biases and gains have none."""
    clip: float = 1.0
    """Largest gradient norm of the loss per dimension; 0 switches clipping off."""
    ema: float = 0.999
    """Decay of the moving average of the weights that is validated and kept; 0 switches it off."""
    log_every: int = 20
    """Steps between rows of log.csv."""
    validate_every: int = 100
    """Steps between validations; the weights with the best validation loss are kept."""
    validate_samples: int = 2048
    """Validation samples that are looked at each time."""
    save_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 2000
    """Steps between samples of the averaged weights, drawn from the same noise every time, into samples/ of the run's
    folder; 0 draws none."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the networks; state and log-determinants stay in float32."""
    cpu: bool = False
    """Stay on the CPU even where there is a GPU."""
    threads: int | None = None
    """Threads on the CPU; by default the steps themselves are timed with 1, 2, 4, ... of them, unless OMP_NUM_THREADS
    or torch.set_num_threads says how many. torch's convolutions and products may round otherwise with another number:
    fix it for a run that is to repeat bit for bit."""
    workers: int | None = None
    """Processes that read ahead what is not in memory; 0 reads between the steps. By default two decode pictures, and
    none reads numbers. The data are the same."""
    tensorboard: bool = True
    """Whether TensorBoard events are written beside log.csv: the option switches them off."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""

    def __post_init__(self) -> None:
        given = [name for name in BUDGET if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one budget, got {' and '.join(f'{n}={getattr(self, n)}' for n in given)}")
        for name, (least, most) in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name in ("steps", "threads", "workers"):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
                raise ValueError(f"{name}: expected an integer from {least} to {most}, got {value!r}")
            object.__setattr__(self, name, int(value))  # numpy's, too: the config is written as JSON
        for name in ("lr", "weight_decay", "clip", "ema", *given):
            value, zero = getattr(self, name), name in ("weight_decay", "clip", "ema")
            number = isinstance(value, Real) and not isinstance(value, bool) and value < math.inf
            if not number or not (value > 0 or (zero and value == 0)):
                raise ValueError(f"{name}: expected a number {'>=' if zero else '>'} 0, got {value!r}")
            if not isinstance(value, int):
                object.__setattr__(self, name, float(value))
        if not self.ema < 1:
            raise ValueError(f"ema: expected 0 <= ema < 1, got {self.ema}")

    def step_budget(self, samples: int) -> int | None:
        """The budget in steps for a training set of `samples`, None for a budget in minutes.

        >>> TrainConfig(epochs=2, batch_size=128).step_budget(1000)
        16
        """
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * samples / self.batch_size))
        return self.steps

    @property
    def seconds(self) -> float:
        """The budget in seconds when it is one of time."""
        return 60.0 * (1.0 if self.minutes is None else self.minutes)

    def learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up over `warmup` steps times a cosine in the spent part of the budget, `progress` in 0..1.

        >>> config = TrainConfig(lr=1.0, warmup=4)
        >>> [config.learning_rate(0, 0.0), config.learning_rate(10, 0.5), config.learning_rate(20, 1.0)]
        [0.25, 0.5, 0.0]
        """
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * rise * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
