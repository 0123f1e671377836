"""What a run writes while it trains: log.csv, TensorBoard events, and a progress bar or plain lines."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

BITS = {f"bits_per_{unit}": f"bits/{unit}" for unit in ("dim", "symbol", "row")}
COLUMNS = (
    "step",
    "epoch",
    "seconds",
    "lr",
    "loss",
    *BITS,
    "grad_norm",
    "samples_per_second",
    "valid_loss",
    *(f"valid_{key}" for key in BITS),
)
PLAIN_LINE_SECONDS = 10.0
PATIENCE = 5
"""Validations that are worse than the best one before that is said; twice as many before it is said again."""


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _describe(row: dict[str, float]) -> str:
    shown = []
    for part in ("", "valid_"):
        for key, name in (*BITS.items(), ("loss", "loss")):
            if (column := f"{part}{key}") in row:
                shown.append(f"{part.replace('_', ' ')}{name} {row[column]:.3f}")
                break
    text = " ".join(shown)
    return f"{text}  {row['samples_per_second']:,.0f} samples/s"


class Validations:
    """The validations of a run: the columns of the last, the best, and how many since then were worse.

    >>> seen = Validations()
    >>> said = [seen.add({"step": i, "valid_loss": 3.0 + abs(i - 3)}) for i in range(20)]
    >>> [line for line in said if line][0]
    'validation has not come below 3.000, that of step 3, for 5 times: overfitting? the weights of step 3 are kept'
    >>> [i for i, line in enumerate(said) if line]
    [8, 13]
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self._best, self._step, self._worse = math.inf, 0, 0
        self._patience = PATIENCE

    def add(self, row: dict[str, float]) -> str | None:
        """Take in a row of the log; a loss that has not come down for a while is said, ever less often."""
        if "valid_loss" not in row:
            return None
        self.last = {key: value for key, value in row.items() if key.startswith("valid_")}
        if row["valid_loss"] < self._best:
            self._best, self._step, self._worse = row["valid_loss"], int(row["step"]), 0
            bits = (row[f"valid_{key}"] for key in BITS if f"valid_{key}" in row)
            self._shown = next(bits, row["valid_loss"])
            return None
        self._worse += 1
        if self._worse != self._patience:
            return None
        self._patience *= 2  # noise about a level that is still falling is no news
        return (
            f"validation has not come below {self._shown:.3f}, that of step {self._step}, for {self._worse} times: "
            f"overfitting? the weights of step {self._step} are kept"
        )


@dataclass
class Window:
    """Sums over the steps since the last row."""

    loss: float = 0.0
    norm: float = 0.0
    elements: float = 0.0
    count: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, loss: float, norm: float, elements: float) -> None:
        """Take in a step's mean loss, gradient norm, and elements of an event."""
        self.loss, self.norm, self.elements = self.loss + loss, self.norm + norm, self.elements + elements
        self.count += 1


class RunLog:
    """The log writes one row at a time; it is a context manager.

    A run that goes on from step `start` first drops the rows after that step, which will be made again.
    On a terminal it shows a progress bar, elsewhere a line every ten seconds and one at the end of the budget.
    """

    def __init__(self, out: Path, console: Console, start: int, tensorboard: bool) -> None:
        self.console = console
        path = out / "log.csv"
        kept = [row for row in read_rows(path) if row["step"] <= start] if start and path.exists() else []
        self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._writer.writerows({**row, "step": int(row["step"])} for row in kept)
        self._events = _summary_writer(out / "tensorboard", start, console) if tensorboard else None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._spoken = time.monotonic()
        self._path, self._validations = path, Validations()
        for row in kept:
            self._validations.add(row)

    def __enter__(self) -> RunLog:
        if self.console.is_terminal:
            columns = TextColumn("step {task.fields[step]}"), BarColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self.console)
            self._task = self._bar.add_task("starting", total=1.0, step=0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()
        self._file.close()

    def write(self, row: dict[str, float], progress: float) -> None:
        """Record one row, whose keys are among COLUMNS, and show that `progress` (0..1) of the budget is spent."""
        try:
            self._writer.writerow({key: value if key == "step" else f"{value:.6g}" for key, value in row.items()})
            self._file.flush()
        except OSError as error:  # a full disk
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if warning := self._validations.add(row):
            self.console.print(warning, highlight=False, soft_wrap=True)
        shown, step = {**self._validations.last, **row}, int(row["step"])
        if self._events is not None:
            for key in set(row) - {"step"}:
                self._events.add_scalar(key, row[key], step)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress, description=_describe(shown), step=step)
        elif progress >= 1 or time.monotonic() - self._spoken >= PLAIN_LINE_SECONDS:
            self._spoken = time.monotonic()
            share = min(100.0 * progress, 100.0)  # the last step of a budget of minutes ends a little after it
            self.console.print(f"step {step}  {share:3.0f} %  {_describe(shown)}", highlight=False)


def _summary_writer(folder: Path, start: int, console: Console) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("tensorboard is not installed (pip install tensorboard): writing log.csv only", highlight=False)
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
