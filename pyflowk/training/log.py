"""What a run writes while it trains: log.csv, TensorBoard events, and a progress bar or plain lines."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COLUMNS = (
    "step",
    "epoch",
    "seconds",
    "lr",
    "loss",
    "bits_per_dim",
    "grad_norm",
    "samples_per_second",
    "valid_loss",
    "valid_bits_per_dim",
)
PLAIN_LINE_SECONDS = 10.0


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _describe(row: dict[str, float]) -> str:
    shown = []
    for part in ("", "valid_"):
        for column, name in ((f"{part}bits_per_dim", "bits/dim"), (f"{part}loss", "loss")):
            if column in row:
                shown.append(f"{part.replace('_', ' ')}{name} {row[column]:.3f}")
                break
    text = " ".join(shown)
    return f"{text}  {row['samples_per_second']:,.0f} samples/s"


class RunLog:
    """Writes one row at a time; use it as a context manager.

    A run that goes on from step `start` first drops the rows after that step, which will be made again.
    On a terminal it shows a progress bar, elsewhere a line every ten seconds.
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
        self._writer.writerow({key: value if key == "step" else f"{value:.6g}" for key, value in row.items()})
        self._file.flush()
        step = int(row["step"])
        if self._events is not None:
            for key in set(row) - {"step"}:
                self._events.add_scalar(key, row[key], step)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress, description=_describe(row), step=step)
        elif time.monotonic() - self._spoken >= PLAIN_LINE_SECONDS:
            self._spoken = time.monotonic()
            self.console.print(f"step {step}  {100 * progress:3.0f} %  {_describe(row)}", highlight=False)


def _summary_writer(folder: Path, start: int, console: Console) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("tensorboard is not installed (pip install tensorboard): writing log.csv only", highlight=False)
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
