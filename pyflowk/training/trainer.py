"""The training loop: AdamW, warm-up and cosine, clipping, moving average, early best, checkpoints."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor

from ..datasets import Dataset
from ..datasets.rows import Watch
from ..metrics.levels import unit_of
from ..space import Events
from ..zoo import GenerativeModel
from . import checkpoint, parts
from .batches import Batches, Feed, step_generator
from .config import TrainConfig
from .evaluation import evaluating
from .log import RunLog, Window
from .nonfinite import NonFiniteLoss, first_nonfinite
from .processes import agree, alone_in, join, naming_lost_peers
from .signals import interruptible
from .spaces import check_fit, elements
from .state import State
from .threads import Threads

INITIAL_BATCH = 512
"""Samples that set data-dependent layers."""


@dataclass(frozen=True)
class Result:
    """Where a run stands: `best` is the lowest validation loss, `interrupted` tells that a signal ended it early."""

    step: int
    seconds: float
    best: float
    interrupted: bool


class Trainer:
    r"""A trainer of any system on any data set; `out` receives log.csv, TensorBoard events, samples/ and checkpoint/.

    The minimised number is the mean over the global batch of the per-sample loss, divided by the dimension so that
    `clip` means the same for every data set. On one process, a run that was stopped and resumed computes, bit for
    bit, what an uninterrupted one does, unless its budget is one of minutes, whose schedule follows the clock, and
    as long as its number of threads is fixed (`config.threads`, OMP_NUM_THREADS): torch's convolutions and products
    may round otherwise with another one. With several processes (`accelerate launch`, `torchrun`) each takes its
    share of the same global batches.

    Parameters are trained and averaged, unless the model moves them itself (`targets`, in `after_step`, which follows
    every step) or has them from elsewhere (`teachers`, which are not saved either). `sampling` are the options of the
    samples that are drawn on the way, checked at once.

    Where the data came from is stored with the checkpoint so that commands can find them again, and what was done to
    the rows of a table so that samples come back in its units. With `resume` the run goes on from `out`/checkpoint.
    Raises ValueError for settings that do not fit the data or the number of processes, and without `resume` where `out`
    holds a checkpoint already; TypeError or ValueError for options that the model's samples do not take;
    CheckpointError when there is nothing sound to resume from or the data are others by now; NonFiniteLoss from `run`.
    `clock` tells the seconds of a budget of minutes (`time.process_time`: those that other jobs do not use); `watch`
    hears how far the model's look at all rows is (`prepare`).

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
        out: str | Path,
        sampling: Mapping[str, Any] | None = None,
        console: Console | None = None,
        resume: bool = False,
        clock: Callable[[], float] = time.monotonic,
        watch: Watch | None = None,
    ) -> None:
        check_fit(model.space, data)
        for part in ("train", "valid"):
            rows, known = data.part(part)
            if not len(rows):
                raise ValueError(f"{data.name}: expected rows to train on and to validate, got none of {part}")
            if model.space.context is not None and known is None:
                raise ValueError(f"{data.name}: expected {model.space.context} for the rows of {part}, got none")
        self.model, self.data, self.config, self.out, self.clock = model, data, config, Path(out), clock
        if not resume and (self.out / "checkpoint").exists():
            raise ValueError(f"{out} holds a checkpoint already: pass resume=True to go on, or choose another folder")
        self.sampling = dict(sampling or {})
        model.chosen(self.sampling)
        self.accelerator = join(cpu=config.cpu, mixed_precision=config.mixed_precision)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.console = console or Console(quiet=not self.main, markup=False)
        self.threads = Threads(config.threads, device=self.device, say=self._say)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.batches = Batches(len(data.train), config.batch_size, config.seed, rank, world)
        self.feed = Feed(data, self.batches, workers=config.workers, pinned=self.device.type == "cuda")
        self.budget = config.step_budget(len(data.train))

        parts.freeze(model)
        if not parts.trained(model):
            raise ValueError(f"{model.name}: expected weights to train, got none that are not frozen")
        parts.train(model.to(self.device))
        saved = checkpoint.Checkpoint.open(self.out / "checkpoint") if resume else None
        if saved is None:
            self._initialize()
        else:
            changes = saved.changes(data)
            if changes:
                raise checkpoint.CheckpointError(f"{data.name} is not what {out} was trained on: {changes}")
            saved.load_into(model, "model")
        rows, context = data.part("train")
        known = context if model.space.context is not None else None
        prepared = model.prepare(
            rows, known, step_generator(config.seed, 0, -2, self.device), None if watch is None else watch("prepared"),
            {} if saved is None else saved.prepared,
        )  # fmt: skip
        self.state = State(model, config, self.accelerator, prepared)
        if saved is not None:
            self.state.restore(saved)

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.state.step

    @property
    def averaged(self) -> GenerativeModel:
        """The moving average of the model, or the model itself when there is none."""
        return self.state.averaged

    def run(self, until: int | None = None) -> Result:
        """Train to the end of the budget, or up to step `until`; leaves a checkpoint in any case.

        SIGINT and SIGTERM end it after the current step. Raises NonFiniteLoss, leaving the last good checkpoint, and
        CheckpointError where another process trains into `out`.
        """
        alone = alone_in(self.out) if self.main else contextlib.nullcontext()
        with alone, naming_lost_peers(self.accelerator.num_processes), self.feed:
            if self.step == 0:
                self.save()  # finds out early that the disk can be written, and leaves something to go back to
            return self._run(until)

    def _run(self, until: int | None) -> Result:
        config, started = self.config, self.clock() - self.state.elapsed
        with interruptible() as stop, self._log() as log, self.threads:
            window = Window()
            progress, halt, done = self._stand(started, stop, until)
            if progress >= 1:
                self._say(f"nothing is left to train: the run is at step {self.step}, and {self._spent()}")
            while True:
                stepped = not done
                if stepped:
                    with self.threads.step():
                        window.add(*self._train_step(progress))
                    progress, halt, done = self._stand(started, stop, until)  # so that the last step is validated
                due, save = (done or self.step % every == 0 for every in (config.validate_every, config.save_every))
                draw = stepped and config.sample_every > 0 and self.step % config.sample_every == 0
                if window.count and (due or self.step % config.log_every == 0):
                    self._report(log, window, progress, validate=due)
                    window = Window()
                if save:  # before samples are drawn, which may take long and be cut short
                    self.save()
                if draw:
                    self._draw()
                if done:
                    return Result(self.step, self.state.elapsed, self.state.best, interrupted=halt)
                if due or save or draw:  # they take their time: a signal that came meanwhile ends the run before a step
                    progress, halt, done = self._stand(started, stop, until)

    def _stand(self, started: float, stop: threading.Event, until: int | None) -> tuple[float, bool, bool]:
        """The share of the budget that is used, whether a signal came, and whether this was the last step."""
        self.state.elapsed, halt = agree(self.accelerator, self.clock() - started, stop.is_set())
        progress = self.state.elapsed / self.config.seconds if self.budget is None else self.step / self.budget
        return progress, halt, halt or progress >= 1 or self.step == until

    def _spent(self) -> str:
        """The budget, and how far it is spent, in words."""
        if self.budget is None:
            return f"has used {self.state.elapsed / 60:.3g} of {self.config.seconds / 60:.3g} minutes"
        return f"its budget is {self.budget} steps"

    def save(self) -> None:
        """Write `out`/checkpoint atomically (main process only)."""
        if self.main:
            self.state.save(self.out / "checkpoint", self.data, self.sampling)

    def _initialize(self) -> None:
        """Set data-dependent layers from the first samples, the same on every process."""
        first = Batches(len(self.data.train), min(INITIAL_BATCH, len(self.data.train)), self.config.seed)(0)
        x, context = self._here(*self.data.take("train", first))
        self.model.initialize(x, context, step_generator(self.config.seed, 0, -1, self.device))

    def _here(self, x: Events, context: Events | None) -> tuple[Events, Events | None]:
        """Rows on the device, with their contexts if the model takes any."""
        if context is None or self.model.space.context is None:
            return x.to(self.device), None
        return x.to(self.device), context.to(self.device)

    def _train_step(self, progress: float) -> tuple[float, float, float]:
        """One update; returns this process's mean loss, the gradient norm and the elements of an event. Waits for the
        device once."""
        x, context = self._here(*self.feed(self.step))
        rate = self.config.learning_rate(self.step, progress)
        loss = _per_event(self.state.net(x, context, self._noise()), x).mean()
        norm = self.state.descend(loss / self.data.space.dims, rate)
        value, length = torch.stack([loss.detach(), norm.to(loss.dtype)]).tolist()
        overflow_is_handled = self.config.mixed_precision == "fp16"  # the loss scaler skips such a step
        if not math.isfinite(value) or not (math.isfinite(length) or overflow_is_handled):
            raise NonFiniteLoss(self._explain(x, context, value, rate))
        self.state.advance()
        return value, length, self._elements(x)

    def _elements(self, x: Events) -> float:
        """Elements of one of these events, on average."""
        return elements(x, self.data.space) / len(x)

    def _noise(self) -> Generator:
        return step_generator(self.config.seed, self.step, self.accelerator.process_index, self.device)

    def _explain(self, x: Events, context: Events | None, value: float, rate: float) -> str:
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
    def _validate(self) -> tuple[float, float, str | None]:
        """Mean loss of the averaged weights on the first validation samples, with the same noise every time; elements
        of an event there; the loss's unit, which may be another than in training, where regularisers act."""
        count = min(len(self.data.valid), self.config.validate_samples)
        total, size = 0.0, 0
        noise = Generator(self.device).manual_seed(self.config.seed)
        with evaluating(self.averaged) as model:
            for x, context in itertools.starmap(self._here, self.feed.through("valid", count)):
                total += _per_event(model.loss(x, context, noise), x).double().sum().item()
                size += elements(x, self.data.space)
            return total / count, size / count, model.loss_unit

    def _draw(self) -> None:
        """Draw samples of the averaged weights into samples/, from the same noise every time.

        The run does not notice: its random numbers and its choice of threads are left as they are, and samples that
        cannot be drawn yet, by a solver that cannot go on, are no reason to end it.
        """
        if not self.main:
            return
        from .drawing import MANY, draw

        seed, path = self.config.seed, self.out / "samples" / f"step-{self.step:06d}"
        here = Threads(torch.get_num_threads(), device=self.device)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                draw(self.averaged, self.data, path, seed=seed, threads=here, sampling=self.sampling, shown=MANY)
            except (ArithmeticError, RuntimeError, ValueError) as error:
                self._say(f"no samples at step {self.step}: {' '.join(str(error).split())}")

    def _report(self, log: RunLog | None, window: Window, progress: float, *, validate: bool) -> None:
        sums = torch.tensor([window.loss, window.elements], dtype=torch.float64) / window.count
        loss, size = self.accelerator.reduce(sums.to(self.device), "mean").tolist()
        if log is None:
            return
        row = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size / len(self.data.train),
            "seconds": self.state.elapsed,
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "grad_norm": window.norm / window.count,
            "samples_per_second": window.count * self.config.batch_size / (time.monotonic() - window.started),
            **self._in_bits("", loss / size, self.model.loss_unit),
        }
        if validate:
            valid, size, unit = self._validate()
            row |= {"valid_loss": valid, **self._in_bits("valid_", valid / size, unit)}
            self.state.keep_if_best(valid)
        log.write(row, progress)

    def _in_bits(self, part: str, loss: float, unit: str | None) -> dict[str, float]:
        """A column of bits per dimension or symbol; none where the loss is not in nats or the data are no integers."""
        per = unit_of(self.data.space)
        return {} if unit != "nats" or per is None else {f"{part}bits_per_{per}": loss / math.log(2)}

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _log(self) -> contextlib.AbstractContextManager[RunLog | None]:
        if not self.main:
            return contextlib.nullcontext()
        return RunLog(self.out, self.console, self.step, self.config.tensorboard)


def _per_event(loss: Tensor, x: Events) -> Tensor:
    """The loss of each event, which means and sums are taken of."""
    if loss.shape != (len(x),):
        raise ValueError(f"expected the loss of each event, ({len(x)},), got {tuple(loss.shape)}")
    return loss
