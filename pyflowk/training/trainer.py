"""The training loop: AdamW, warm-up and cosine, clipping, moving average, early best, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Generator, Tensor, nn

from .. import __version__
from ..datasets import Dataset
from ..zoo import GenerativeModel
from . import checkpoint
from .batches import Batches, step_generator
from .config import TrainConfig
from .ema import MovingAverage
from .log import RunLog
from .nonfinite import NonFiniteLoss, first_nonfinite
from .processes import alone_in, join, naming_lost_peers
from .threads import Threads

INITIAL_BATCH = 512
"""Samples that set data-dependent layers."""
SAME_SIGNAL = 2.0
"""Seconds in which signals are taken for one."""


@dataclass(frozen=True)
class Result:
    """Where a run stands: `best` is the lowest validation loss, `interrupted` tells that a signal ended it early."""

    step: int
    seconds: float
    best: float
    interrupted: bool


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a flag that the loop looks at; a later one acts at once.

    Ctrl-C comes twice to a process under a launcher, from the terminal and passed on: what follows soon is the same.
    """
    flag, first = threading.Event(), math.inf

    def handle(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        first = min(first, now)
        if now - first > SAME_SIGNAL:
            raise KeyboardInterrupt
        flag.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield flag
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    r"""Trains any system of the zoo on a data set; `out` receives log.csv, TensorBoard events and checkpoint/.

    The minimised number is the mean over the global batch of the per-sample loss, divided by the dimension so that
    `clip` means the same for every data set. On one process, a run that was stopped and resumed computes, bit for
    bit, what an uninterrupted one does, unless its budget is one of minutes, whose schedule follows the clock, and
    as long as its number of threads is fixed (`config.threads`, OMP_NUM_THREADS): torch's convolutions and products
    may round otherwise with another one. With several processes (`accelerate launch`, `torchrun`) each takes its
    share of the same global batches.

    Where the data came from is stored with the checkpoint so that commands can find them again, and what was done to
    the rows of a table so that samples come back in its units. With `resume` the run goes on from `out`/checkpoint.
    Raises ValueError for settings that do not fit the data or the number of processes, CheckpointError when there is
    nothing sound to resume from or the data are others by now, NonFiniteLoss from `run`. `clock` tells the seconds of
    a budget of minutes (`time.process_time`: those that other jobs do not use).

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from pyflowk import datasets, zoo
    >>> from pyflowk.training import TrainConfig, Trainer
    >>> from rich.console import Console
    >>> config, quiet = TrainConfig(steps=2, tensorboard=False, cpu=True), Console(quiet=True)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     Trainer(zoo.create("nice", (2,)), datasets.load("moons"), config, out=Path(out), console=quiet).run().step
    2
    """

    def __init__(
        self,
        model: GenerativeModel,
        data: Dataset,
        config: TrainConfig,
        *,
        out: Path,
        console: Console | None = None,
        resume: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_fit(model, data)
        self.model, self.data, self.config, self.out, self.clock = model, data, config, out, clock
        self.accelerator = join(cpu=config.cpu, mixed_precision=config.mixed_precision)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.console = console or Console(quiet=not self.main, markup=False)
        self.threads = Threads(config.threads, device=self.device, say=self._say)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.batches = Batches(len(data.train), config.batch_size, config.seed, rank, world)
        self.budget = config.step_budget(len(data.train))
        self.step, self.elapsed, self.best = 0, 0.0, math.inf
        self.best_weights: dict[str, Tensor] = {}

        model.to(self.device).train()
        saved = checkpoint.Checkpoint.open(out / "checkpoint") if resume else None
        if saved is None:
            self._initialize()
        else:
            changes = saved.changes(data)
            if changes:
                raise checkpoint.CheckpointError(f"{data.name} is not what {out} was trained on: {changes}")
            saved.load_into(model, "model")
        self.average = MovingAverage(model, config.ema) if config.ema else None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.lr, fused=_fusable(model))
        self.net, self.optimizer = self.accelerator.prepare(model, optimizer)
        if saved is not None:
            self._restore(saved)

    @property
    def averaged(self) -> GenerativeModel:
        """The moving average of the model, or the model itself when there is none."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def run(self, until: int | None = None) -> Result:
        """Train to the end of the budget, or up to step `until`; leaves a checkpoint in any case.

        SIGINT and SIGTERM end it after the current step. Raises NonFiniteLoss, leaving the last good checkpoint, and
        CheckpointError where another process trains into `out`.
        """
        alone = alone_in(self.out) if self.main else contextlib.nullcontext()
        with alone, naming_lost_peers(self.accelerator.num_processes):
            if self.step == 0:
                self.save()  # finds out early that the disk can be written, and leaves something to go back to
            return self._run(until)

    def _run(self, until: int | None) -> Result:
        config, started = self.config, self.clock() - self.elapsed
        with interruptible() as stop, self._log() as log, self.threads:
            window = _Window()
            progress, halt, done = self._stand(started, stop, until)
            while True:
                if not done:
                    with self.threads.step():
                        taken = self._train_step(progress)
                    window.add(*taken)
                    progress, halt, done = self._stand(started, stop, until)  # so that the last step is validated
                due, save = (done or self.step % every == 0 for every in (config.validate_every, config.save_every))
                if window.count and (due or self.step % config.log_every == 0):
                    self._report(log, window, progress, validate=due)
                    window = _Window()
                if save:
                    self.save()
                if done:
                    return Result(self.step, self.elapsed, self.best, interrupted=halt)
                if due or save:  # which take their time: a signal that came meanwhile ends the run before another step
                    progress, halt, done = self._stand(started, stop, until)

    def _stand(self, started: float, stop: threading.Event, until: int | None) -> tuple[float, bool, bool]:
        """The share of the budget that is used, whether a signal came, and whether this was the last step."""
        self.elapsed, halt = self._agree(self.clock() - started, stop.is_set())
        progress = self.elapsed / self.config.seconds if self.budget is None else self.step / self.budget
        return progress, halt, halt or progress >= 1 or self.step == until

    def save(self) -> None:
        """Write `out`/checkpoint atomically (main process only)."""
        if not self.main:
            return
        model, data = self.model.state_dict(), self.data
        average = self.averaged.state_dict()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        meta = {
            "pyflowk": __version__,
            "model": self.model.config,
            "data": data.origin or {"name": data.name},
            "content": {"rows": len(data.train) + len(data.valid) + len(data.test), "fingerprint": data.fingerprint},
            "preparation": None if data.preparation is None else data.preparation.as_json(),
            "train": dataclasses.asdict(self.config),
            "step": self.step,
            "seconds": self.elapsed,
            "best_valid_loss": self.best if math.isfinite(self.best) else None,
        }
        weights = {"model": model, "ema": average, "best": self.best_weights or average}
        checkpoint.write(self.out / "checkpoint", weights, state, meta)

    def _initialize(self) -> None:
        """Set data-dependent layers from the first samples, the same on every process."""
        first = Batches(len(self.data.train), min(INITIAL_BATCH, len(self.data.train)), self.config.seed)(0)
        x, context = self._take("train", first)
        self.model.initialize(x, context, step_generator(self.config.seed, 0, -1, self.device))

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            saved.load_into(self.average.module, "ema")
            self.average.updates = state["average_updates"]
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["cpu_rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step, self.elapsed = saved.meta["step"], saved.meta["seconds"]
        if saved.meta["best_valid_loss"] is not None:
            self.best, self.best_weights = saved.meta["best_valid_loss"], saved.weights("best")

    def _take(self, part: str, rows: Tensor) -> tuple[Any, Any]:
        x, context = self.data.take(part, rows)
        if context is None or not self.model.conditional:
            return x.to(self.device), None
        return x.to(self.device), context.to(self.device)

    def _train_step(self, progress: float) -> tuple[float, float]:
        """One update; returns this process's mean loss and the gradient norm. Waits for the device once."""
        x, context = self._take("train", self.batches(self.step))
        rate = self.config.learning_rate(self.step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.net(x, context, self._noise()).mean()
        self.accelerator.backward(loss / self.data.space.dims)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip or math.inf)
        value, length = torch.stack([loss.detach(), norm.to(loss.dtype)]).tolist()
        overflow_is_handled = self.config.mixed_precision == "fp16"  # the loss scaler skips such a step
        if not math.isfinite(value) or not (math.isfinite(length) or overflow_is_handled):
            raise NonFiniteLoss(self._explain(x, context, value, rate))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self.step += 1
        return value, length

    def _noise(self) -> Generator:
        return step_generator(self.config.seed, self.step, self.accelerator.process_index, self.device)

    def _explain(self, x: Tensor, context: Tensor | None, value: float, rate: float) -> str:
        def loss() -> Tensor:
            with self.accelerator.autocast():
                return self.model.loss(x, context, self._noise())

        layer = first_nonfinite(self.model, loss, x)
        what = f"loss {value}" if not math.isfinite(value) else "non-finite gradient"
        saved = checkpoint.Checkpoint.open(self.out / "checkpoint").meta["step"]
        return (
            f"{what} at step {self.step}, learning rate {rate:.3g}: first non-finite in {layer}; "
            f"the last good checkpoint (step {saved}) is in {self.out / 'checkpoint'}"
        )

    @torch.no_grad()
    def _validate(self) -> tuple[float, str | None]:
        """Mean loss of the averaged weights on the first validation samples, with the same noise every time; its unit,
        which may be another than in training, where regularisers act."""
        count = min(len(self.data.valid), self.config.validate_samples)
        model, total = self.averaged, 0.0
        noise = Generator(self.device).manual_seed(self.config.seed)
        model.eval()
        for rows in torch.arange(count).split(512):
            x, context = self._take("valid", rows)
            total += model.loss(x, context, noise).double().sum().item()
        unit = model.loss_unit
        self.model.train()
        return total / count, unit

    def _report(self, log: RunLog | None, window: _Window, progress: float, *, validate: bool) -> None:
        loss = torch.tensor(window.loss / window.count, dtype=torch.float64)
        loss = self.accelerator.reduce(loss.to(self.device), "mean").item()
        if log is None:
            return
        row = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size / len(self.data.train),
            "seconds": self.elapsed,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "grad_norm": window.norm / window.count,
            "samples_per_second": window.count * self.config.batch_size / (time.monotonic() - window.started),
            **self._in_bits("bits_per_dim", loss, self.model.loss_unit),
        }
        if validate:
            valid, unit = self._validate()
            row |= {"valid_loss": valid, **self._in_bits("valid_bits_per_dim", valid, unit)}
            if valid < self.best:
                self.best = valid
                self.best_weights = {k: t.detach().cpu().clone() for k, t in self.averaged.state_dict().items()}
        log.write(row, progress)

    def _in_bits(self, column: str, loss: float, unit: str | None) -> dict[str, float]:
        """A column of bits per dimension; none where the loss is not in nats or the data are no integers."""
        if unit != "nats" or self.data.space.levels is None:
            return {}
        return {column: loss / (self.data.space.dims * math.log(2))}

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _agree(self, elapsed: float, halt: bool) -> tuple[float, bool]:
        """The same clock and the same decision to stop on every process."""
        if self.accelerator.num_processes == 1:
            return elapsed, halt
        both = torch.tensor([elapsed, float(halt)], dtype=torch.float64, device=self.device)
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        return both[0].item(), bool(both[1].item())

    def _log(self) -> contextlib.AbstractContextManager[RunLog | None]:
        if not self.main:
            return contextlib.nullcontext()
        return RunLog(self.out, self.console, self.step, self.config.tensorboard)


@dataclass
class _Window:
    """Sums since the last row of the log."""

    loss: float = 0.0
    norm: float = 0.0
    count: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, loss: float, norm: float) -> None:
        self.loss, self.norm, self.count = self.loss + loss, self.norm + norm, self.count + 1


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight matrices decay, biases and gains do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _check_fit(model: GenerativeModel, data: Dataset) -> None:
    if model.shape != data.space.shape:
        raise ValueError(
            f"expected data of shape {model.shape}, which the model is for; got {data.name}: {data.space.shape}"
        )
    if model.levels is not None and model.levels != data.space.levels:
        got = "real numbers" if data.space.levels is None else f"{data.space.levels} levels"
        raise ValueError(f"expected data of {model.levels} levels, which the model is for; got {data.name}: {got}")


def _fusable(model: nn.Module) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in model.parameters())
