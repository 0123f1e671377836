"""How many threads a loop's steps take on the CPU: measured on the steps themselves, unless the user has said it.

Two threads that share their cores with other jobs wait for each other at every small parallel region, and a step has
hundreds of them: one thread is then a hundred times faster than two, and nothing but the clock tells.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

import torch

ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DEFAULT = torch.get_num_threads()

WORTH = 0.9
"""Another number is taken when its steps take this part of the present one's, or less."""
SHARE = 20
"""A look at other numbers may cost one part in so many of the time between looks."""
FIRST_WAIT, LONGEST_WAIT = 4.0, 30.0
"""Seconds of steps until the first look, and at most, between looks that find nothing new."""


def spoken() -> bool:
    """Whether the environment or the program has said how many threads to use."""
    return any(os.environ.get(name) for name in ENVIRONMENT) or torch.get_num_threads() != _DEFAULT


class Choice:
    """Which number of threads, of 1, 2, 4, ..., `most`, the next step takes. It knows no clock and no torch: it is told
    what every step took.

    It looks around at first, and again when the pace has collapsed or some time has passed (a job that ends is noticed
    so): the present number, then larger ones while they bring something, else smaller ones.

    >>> from pyflowk.training.threads import Choice
    >>> choice = Choice(most=4)
    >>> for _ in range(20):
    ...     choice.took(0.1 / choice.count)
    >>> choice.best
    4
    """

    def __init__(self, most: int) -> None:
        self.rungs = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
        self.best = 1
        self.figures: dict[int, float] = {}
        """Seconds a step of the numbers that the last look has tried; infinity for one that was given up."""
        self._wait = FIRST_WAIT
        self.look()

    @property
    def count(self) -> int:
        """Threads of the next step."""
        return self.best if self._trying is None else self._trying

    @property
    def looking(self) -> bool:
        """Whether the next step belongs to a look at several numbers."""
        return self._trying is not None

    @property
    def limit(self) -> float:
        """Seconds after which the next step proves its number of threads useless; the rest of it may run on one."""
        if self.count == 1 or self._cold:
            return math.inf
        if self._trying is None or not self.figures:
            return 5 * self._usual + 0.05
        # the first step with a new number of threads pays for what is prepared once for each number
        return 3 * min(self.figures.values()) + (0.02 if self._steps else 0.3)

    def look(self, *, cold: bool = True) -> None:
        """Look around from the next step on; when `cold`, that step is not counted: it prepares much."""
        self._usual = math.inf if cold else self.figures.get(self.best, math.inf)
        self._trying: int | None = self.best
        self._cold, self._price, self.figures = cold, 0.0, {}
        self._steps: list[float] = []

    def took(self, seconds: float) -> None:
        """The step with `count` threads has taken so long."""
        if self._trying is None:
            self._watch(seconds)
        elif self._cold:
            self._cold = False
        else:
            self._try(self._trying, seconds)

    def _try(self, count: int, seconds: float) -> None:
        hopeless = seconds > self.limit
        self._steps.append(seconds)
        self._price += seconds
        steps, total = len(self._steps), sum(self._steps)
        if hopeless and not self.figures:  # the present number, of all
            self.best = 1
            return self.look(cold=False)
        if not (hopeless or (steps >= 4 and total >= 0.1) or (steps >= 2 and total >= 0.3) or total >= 1.0):
            return
        timed = self._steps[1:] or self._steps
        self.figures[count] = math.inf if hopeless else sum(timed) / len(timed)
        self._trying, self._steps = self._next(count), []
        if self._trying is None:
            fastest = min(self.figures, key=lambda count: self.figures[count])
            if self.figures[fastest] <= WORTH * self.figures[self.best]:
                self.best = fastest
            self._settle()

    def _next(self, last: int) -> int | None:
        """The number to try after those of `figures`."""
        fastest, low, high = min(self.figures.values()), min(self.figures), max(self.figures)
        if last == high < self.rungs[-1] and self.figures[high] <= 1.25 * fastest:
            return self.rungs[self.rungs.index(high) + 1]
        if low > 1 and self.figures[low] == fastest:
            return self.rungs[self.rungs.index(low) - 1]
        return None

    def _settle(self) -> None:
        self._usual, self._calm, self._recent = self.figures[self.best], 0.0, deque[float](maxlen=8)
        self._wait = max(min(2 * self._wait, LONGEST_WAIT), SHARE * self._price)

    def _watch(self, seconds: float) -> None:
        """Between looks: is this still the pace that was found?"""
        collapsed = seconds > self.limit
        self._calm += seconds
        self._recent.append(seconds)
        slow = self.best > 1 and len(self._recent) == 8 and sum(self._recent) > 8 * 1.6 * self._usual
        rested = self._calm > SHARE * self._price
        if collapsed:
            self.figures[self.best], self.best = math.inf, 1
            if rested or 1 not in self.figures:
                self.look(cold=False)
            else:  # so soon after the last look, which was lucky: no other yet
                self._settle()
        elif self._calm > self._wait or (slow and rested):
            self.look(cold=False)


class Threads:
    """The steps of a loop on the CPU run with the number of threads that they themselves are fastest with.

    A step is work that is done over and over: a training step, a batch that is drawn or scored. Nothing is done twice
    for the sake of measuring. `number` fixes the number instead; so do OMP_NUM_THREADS, MKL_NUM_THREADS and
    torch.set_num_threads, before or during the loop. On another `device` than the CPU nothing is chosen. At most as
    many threads are tried as torch has now, which it has again on leaving. `say` receives one line for the first choice
    and for every change. Entered again, it starts from the number that it had.

    What a step computes is the same up to rounding: this package's kernels give the same bits with any number of
    threads, torch's own convolutions and products need not. Fix the number where a run is to repeat bit for bit.

    While a step runs on several threads, the clock is read before each of its torch modules: once it has taken several
    times too long, the rest runs on one.

    >>> import torch
    >>> from pyflowk.training import Threads
    >>> with Threads() as threads:
    ...     for batch in torch.randn(100, 64, 8):
    ...         with threads.step():
    ...             total = batch.exp().sum()

    Raises ValueError for a `number` that is none of threads. Cost: looks at other numbers take at most about one part
    in twenty of the time, reading the clock a microsecond a module.
    """

    def __init__(
        self,
        number: int | None = None,
        *,
        device: torch.device | str = "cpu",
        say: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if number is not None and not 1 <= number <= 2**16:
            raise ValueError(f"threads: expected an integer from 1 to {2**16}, got {number}")
        self.choice: Choice | None = None
        self._number, self._on_cpu = number, torch.device(device).type == "cpu"
        self._say, self._clock = say or (lambda line: None), clock
        self._deadline, self._told, self._entered = math.inf, 0, 0

    def __enter__(self) -> Threads:
        self._entered += 1
        if self._entered > 1:  # a loop in a loop, such as the score of a set: the outer one begins and ends it
            return self
        self._before = self._set = torch.get_num_threads()
        self._hook = None
        if self._number is not None:
            self._apply(self._number)
        if self._number is not None or spoken() or not self._on_cpu or self._before == 1:
            self.choice = None
            return self
        if self.choice is None:
            self.choice = Choice(self._before)
        else:
            self.choice.look()
        self._apply(self.choice.count)
        self._hook = torch.nn.modules.module.register_module_forward_pre_hook(self._look_at_clock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered:
            return
        if self._hook is not None:
            self._hook.remove()
        if torch.get_num_threads() == self._set:
            torch.set_num_threads(self._before)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """What happens inside is one step; one that raises is not counted."""
        self._obey()
        choice = self.choice
        if choice is None:
            yield
            return
        started = self._clock()
        self._deadline = started + choice.limit
        try:
            yield
        finally:
            self._deadline = math.inf
        choice.took(self._clock() - started)
        self._obey()
        if self.choice is None:
            return
        self._apply(choice.count)
        if not choice.looking and choice.best != self._told:
            self._told = choice.best
            self._say(f"threads: {choice.best} of {choice.rungs[-1]}, measured ({_figures(choice)})")

    def _obey(self) -> None:
        """What the loop has said by itself ends the choice."""
        if self.choice is not None and torch.get_num_threads() != self._set:
            self.choice = None

    def _look_at_clock(self, module: object, inputs: object) -> None:
        if not torch.compiler.is_compiling() and self._clock() > self._deadline:
            self._deadline = math.inf
            self._apply(1)

    def _apply(self, count: int) -> None:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        self._set = count


def _figures(choice: Choice) -> str:
    """What the last look has seen: `1: 21 ms a step, 2: too slow`."""
    shown = {count: choice.figures[count] for count in sorted(choice.figures)}
    return ", ".join(f"{n}: {1e3 * s:.3g} ms a step" if s < math.inf else f"{n}: too slow" for n, s in shown.items())
