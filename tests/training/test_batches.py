"""Rows of every step: the same for any number of workers and from wherever a run goes on."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from pyflowk.datasets import Dataset
from pyflowk.datasets.rows import OnDemand
from pyflowk.space import Context, Space
from pyflowk.training.batches import Batches, Feed


class Counting(OnDemand):
    """Row i is (i, -i); some numbers have consequences."""

    def __init__(self, count, broken=-1, deadly=-1):
        super().__init__((count, 2), torch.float32)
        self.broken, self.deadly = broken, deadly

    def __getitem__(self, rows):
        rows = torch.arange(len(self))[rows]
        if self.deadly in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken in rows:
            raise ValueError(f"{self.broken}.png: not a readable picture")
        return torch.stack([rows, -rows], 1).float()


def data(count=100, **options):
    space = Space((2,), context=Context("labels", count))
    parts = [Counting(count, **options) if part == "train" else Counting(count) for part in ("train", "valid", "test")]
    return Dataset("counting", space, *parts, *[torch.arange(count)] * 3)


def taken(feed, steps):
    return [tuple(part.tolist() for part in feed(step)) for step in steps]


def test_workers_change_no_number_and_a_run_goes_on_anywhere():
    batches = Batches(100, 16, seed=3)
    before = torch.get_rng_state()
    with Feed(data(), batches, workers=2) as feed, Feed(data(), batches) as plain:
        assert taken(feed, range(9)) == taken(plain, range(9))
        assert taken(feed, [4, 5, 40]) == taken(plain, [4, 5, 40])
        rows, labels = zip(*feed.through("valid", 70, 32))
        assert torch.equal(torch.cat(rows)[:, 0], torch.arange(70.0)) and torch.cat(labels).tolist() == list(range(70))
        workers = [process.pid for process in feed._next[1]._workers]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_by_default_two_processes_decode_pictures_and_none_reads_numbers():
    found, pictures = data(), data()
    for part in (pictures.train, pictures.valid):
        part.decoded = True
    memory = Dataset("near", Space((2,)), *torch.zeros(3, 4, 2))
    assert [Feed(x, lambda step: torch.arange(2)).workers for x in (found, pictures, memory)] == [0, 2, 0]
    assert [Feed(x, lambda step: torch.arange(2), workers=3).workers for x in (found, memory)] == [3, 0]


def test_what_cannot_be_read_is_named_as_without_workers():
    for workers in (0, 1):
        with Feed(data(broken=7), lambda step: torch.tensor([step]), workers=workers) as feed:
            feed(6)
            with pytest.raises(ValueError, match=r"^7.png: not a readable picture$"):
                feed(7)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's, while it ends the others
def test_a_worker_that_dies_is_an_error_that_says_so():
    feed = Feed(data(deadly=9), lambda step: torch.tensor([step]), workers=1)
    with pytest.raises(RuntimeError, match="counting: one of the 1 processes that read it has died"), feed:
        taken(feed, range(20))


def test_signals_for_all_processes_of_a_group_are_for_the_one_that_trains():
    """`timeout` and launchers end a run so: it needs its workers for the last step before the checkpoint."""
    with Feed(data(), lambda step: torch.tensor([step]), workers=1) as feed:
        feed(0)
        (worker,) = feed._next[1]._workers
        assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


@pytest.mark.parametrize("count, size", [(10, 4), (7, 7), (3, 8), (1, 5)])
def test_batches_are_cuts_of_one_stream(count, size):
    batches, steps = Batches(count, size, seed=1), 12
    stream = torch.cat([batches._order(epoch) for epoch in range(steps * size // count + 1)])
    for step in (*range(steps), 5, 0):
        assert torch.equal(batches(step), stream[step * size : (step + 1) * size])
    halves = [Batches(count, 2 * size, 1, rank, 2)(3) for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(), Batches(count, 2 * size, 1)(3))
