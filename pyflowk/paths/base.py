"""The contract of a path: from a sample of noise and a sample of data to what lies between, and how it moves there."""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from ..ops.modes import transformed
from ..ops.path_sample import noise_of
from ..ops.times import as_time


class PathSample(NamedTuple):
    r"""Events on their way: ``x_t`` (B, \*event) at times ``t`` (B,), the velocity ``target`` (B, \*event) of each, and
    the ``weight`` (B,) of its squared error, None where all weigh 1."""

    x_t: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor | None = None


class Path:
    r"""A way from noise x0, at t = 0, to data x1, at t = 1, given both: what matching objectives regress on.

    ``sample(x0, x1, t, generator)`` takes x0 and x1 (B, \*event) and times () or (B,); a path that has noise of its own
    draws it from the generator, others leave it alone. A subclass gives ``_sample``, whose arguments are checked. The
    average of the targets over all pairs that pass through x at t is the velocity that carries noise to data.
    Raises ValueError for x0 and x1 of different shapes, for another number of times, and, on the CPU, for times
    outside of [0, 1] (elsewhere looking would stall the device).

    >>> import torch
    >>> from pyflowk.paths import Path, PathSample
    >>> class Jump(Path):
    ...     def _sample(self, x0, x1, t, generator):
    ...         late = (t > 0.5).unsqueeze(1)
    ...         return PathSample(torch.where(late, x1, x0), t, torch.zeros_like(x1))
    >>> Jump().sample(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.2, 0.7])).x_t
    tensor([[0.],
            [1.]])
    """

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor | float, generator: Generator | None = None) -> PathSample:
        """What lies at times t between the rows of x0 and of x1."""
        return self._sample(x0, x1, checked_times(x0, x1, t), generator)

    def sample_noise(
        self, keys: Tensor, x1: Tensor, t: Tensor | float, generator: Generator | None = None
    ) -> PathSample:
        """The same from standard normal noise, that of :func:`pyflowk.ops.path_sample.noise_of` for keys (B,)."""
        return self.sample(noise_of(keys, x1), x1, t, generator)

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        raise NotImplementedError(f"{type(self).__name__} has no sample")


def checked_times(x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
    """One time a row, (B,), of a :class:`Path` between x0 and x1; its errors where they or the times do not fit."""
    if x0.shape != x1.shape or x1.dim() == 0:
        raise ValueError(f"expected x0 and x1 of one shape (B, *event), got {tuple(x0.shape)} and {tuple(x1.shape)}")
    t = as_time(t, x1)
    if t.is_cpu and t.numel() and not transformed():
        low, high = (end.item() for end in t.detach().aminmax())
        if low < 0 or high > 1:
            raise ValueError(f"t: expected times from 0 (noise) to 1 (data), got {low:g} to {high:g}")
    return t if t.dim() else t.expand(x1.shape[0])
