"""Which rows and which noise belong to a step, pure functions of the seed, and the rows themselves, read ahead."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import datasets
from ..datasets.rows import OnDemand

_STRIDE = 1_000_003


def step_generator(seed: int, step: int, rank: int, device: torch.device) -> Generator:
    """The generator of one step of one process; nothing has to be saved to draw the same numbers again."""
    return Generator(device).manual_seed(((seed * _STRIDE + step) * _STRIDE + rank) % 2**63)


class Batches:
    """An endless stream of shuffled passes over `count` samples, cut into global batches.

    `batches(step)` gives the indices of this process: every `world`-th sample of global batch `step`, so that any
    number of processes sees the same global batches.

    >>> from pyflowk.training.batches import Batches
    >>> stream = Batches(count=3, batch_size=2, seed=0)
    >>> sorted(torch.cat([stream(0), stream(1), stream(2)]).tolist())
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size: expected a multiple of the {world} processes, got {batch_size}")
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        start, end = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(start // self.count, (end - 1) // self.count + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        stream = [order[max(0, start - e * self.count) : end - e * self.count] for e, order in self._orders.items()]
        return torch.cat(stream)[self.rank :: self.world]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.count, generator=Generator().manual_seed((self.seed * _STRIDE + epoch) % 2**63))


class Feed:
    """The rows of a data set, batch by batch: `feed(step)` is what to train on, `feed.through(part, count)` a part.

    Rows in memory are taken as they are. Rows on demand are read by `workers` processes, which are a few batches ahead
    while the steps come one after the other, or by this process where there are none; the numbers are the same. By
    default two decode pictures, and none reads numbers, which would cost less than handing them over. With
    `pinned`, batches that come from workers are in page-locked memory. Raises what reading raises, and RuntimeError
    where a worker dies. It is a context, which ends its workers on the way out.

    >>> from pyflowk import datasets
    >>> from pyflowk.training.batches import Batches, Feed
    >>> feed = Feed(datasets.load("moons"), Batches(count=10_000, batch_size=128, seed=0))
    >>> feed(7)[0].shape
    torch.Size([128, 2])
    """

    def __init__(
        self,
        data: datasets.Dataset,
        batches: Callable[[int], Tensor],
        *,
        workers: int | None = None,
        pinned: bool = False,
    ) -> None:
        self.data, self.batches, self.pinned = data, batches, pinned
        rows = [data.part(part)[0] for part in ("train", "valid")]
        wanted = 2 * any(isinstance(part, OnDemand) and part.decoded for part in rows) if workers is None else workers
        self.workers = wanted if data.on_demand else 0
        self._next: tuple[int, Iterator[Any]] | None = None

    def __call__(self, step: int) -> tuple[Any, Any]:
        """The events and contexts of a step, on the CPU."""
        if not self.workers:
            return self.data.take("train", self.batches(step))
        ahead = self._next[1] if self._next is not None and self._next[0] == step else self._read("train", step)
        self._next = step + 1, ahead
        return self._received(ahead)

    def through(self, part: str, count: int, size: int = 512) -> Iterator[tuple[Any, Any]]:
        """The first `count` rows of a part, `size` at a time."""
        cuts = torch.arange(count).split(size)
        if not self.workers:
            yield from (self.data.take(part, rows) for rows in cuts)
            return
        ahead = iter(self._loader(part, cuts))
        for _ in cuts:
            yield self._received(ahead)

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next = None  # with the last reference to their iterator the workers end
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # torch's signal comes at any time
            raise self._died(error) from error

    def _read(self, part: str, step: int) -> Iterator[Any]:
        return iter(self._loader(part, _Steps(self.batches, step)))

    def _loader(self, part: str, numbers: Any) -> DataLoader[Any]:
        # a generator of its own: the global one is as it would be without workers
        return DataLoader(
            _Part(self.data, part), batch_size=None, sampler=numbers, num_workers=self.workers, pin_memory=self.pinned,
            collate_fn=_as_it_is, worker_init_fn=_apart, generator=Generator(), multiprocessing_context="fork",
        )  # fmt: skip

    def _received(self, ahead: Iterator[Any]) -> tuple[Any, Any]:
        try:
            found = next(ahead)
        except (EOFError, ConnectionError) as error:  # it went while it handed something over
            raise self._died(error) from error
        if isinstance(found, Exception):
            raise found
        return found[0], found[1]

    def _died(self, error: BaseException) -> RuntimeError:
        return RuntimeError(
            f"{self.data.name}: one of the {self.workers} processes that read it has died ({error}); where the memory "
            "was full, a smaller --workers or --batch-size needs less"
        )


class _Part(Dataset[Any]):
    """What a worker holds: of a list of numbers the rows, or the error that says what is wrong with them."""

    def __init__(self, data: datasets.Dataset, part: str) -> None:
        self.data, self.part = data, part

    def __getitem__(self, rows: Tensor) -> Any:
        try:
            return self.data.take(self.part, rows)
        except Exception as error:
            return error  # is raised where it is received


class _Steps(Sampler[Tensor]):
    """The batches of a step and of all that follow."""

    def __init__(self, batches: Callable[[int], Tensor], step: int) -> None:
        self.batches, self.step = batches, step

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.batches, itertools.count(self.step))


def _as_it_is(batch: Any) -> Any:
    return batch


def _apart(worker: int) -> None:
    """In a group of its own: signals for all processes of a group, from a terminal or of `timeout` and launchers, are
    for the one that trains, which ends the others."""
    os.setpgid(0, 0)
