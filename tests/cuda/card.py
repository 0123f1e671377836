"""What the tests of streams and graphs ask of a card, a real one or one that the CPU pretends to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyflowk import selfcheck
from pyflowk.ops import registry
from pyflowk.selfcheck.trial import each
from tests.ops.cases import FEW_CASES

ROWS = 33


class Card:
    """The first card."""

    device = "cuda"

    @contextmanager
    def side_stream(self) -> Iterator[Any]:
        """A stream that is behind: what it does comes long after what the others do."""
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            yield stream

    def wait(self) -> None:
        torch.cuda.synchronize()

    def used_on(self, tensor: Tensor, stream: Any) -> None:
        tensor.record_stream(stream)

    def captured(self, work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """(results, what makes them anew) of a graph of `work`; what is made at a first call was made before."""
        with self.side_stream():
            work()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = work()
        return results, graph.replay

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, mode="reduce-overhead")


class Pretended(Card):
    """The CPU, which shows that the tests themselves are sound."""

    device = "cpu"

    @contextmanager
    def side_stream(self) -> Iterator[Any]:
        yield None

    def wait(self) -> None:
        pass

    def used_on(self, tensor: Tensor, stream: Any) -> None:
        pass

    def captured(self, work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        results = work()

        def replay() -> None:
            for old, new in zip(results, work(), strict=True):
                old.detach().copy_(new)

        return results, replay

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


@dataclass(frozen=True)
class Call:
    """One way to call an op: `function` of its real tensors, and such ones on the card."""

    op: str
    function: Callable[..., Any]
    leaves: tuple[Tensor, ...]

    def __call__(self, *leaves: Tensor) -> list[Tensor]:
        """Values, and gradients where there are any."""
        leaves = leaves or self.leaves
        if registry()[self.op].backward is None:
            return [*self.function(*leaves)]
        leaves = tuple(t.detach().requires_grad_() for t in leaves)
        outputs = [*self.function(*leaves)]
        return [*outputs, *torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs])]

    def others(self) -> tuple[Tensor, ...]:
        """Other numbers for the leaves."""
        return tuple(t.flip(0) for t in self.leaves)


def calls(device: str) -> list[Call]:
    """A call of every op: its first case, or of what has no derivative its first trial."""
    found = {}
    for case in FEW_CASES:
        leaves = tuple(t.to(device) for t in case.inputs(ROWS, torch.float32))
        found.setdefault(case.op, Call(case.op, case.call, leaves))
    for name in registry().keys() - found.keys():
        trial = selfcheck.TRIALS[name]
        args = each(lambda t: t.to(device), trial.tensors(trial.configs[0], 9, torch.float32))
        found[name] = _call(name, args, trial.configs[0])
    return [found[name] for name in sorted(found)]


def _call(name: str, args: tuple[Any, ...], config: tuple[Any, ...]) -> Call:
    leaves: list[Tensor] = []
    each(lambda t: leaves.append(t) if t.is_floating_point() else None, args)

    def function(*real: Tensor) -> Any:
        rest = iter(real)
        return registry()[name]((*each(lambda t: next(rest) if t.is_floating_point() else t, args), *config))

    return Call(name, function, tuple(leaves))
