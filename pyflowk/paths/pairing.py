"""Which noise goes with which event of a batch: functions (x0, x1, context, generator) -> (x0, x1, context)."""

from __future__ import annotations

from typing import Protocol

from torch import Generator, Tensor


class Pairing(Protocol):
    r"""Whatever pairs the rows of x0 and x1 (B, \*event), by permuting or drawing them; a context goes with its x1."""

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]: ...


def independent(
    x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Pair the rows as they come: noise that knows nothing of the data, nor of their context.

    x0 and x1 are (B, \*event), the context has B rows. Cost: none.

    >>> import torch
    >>> from pyflowk.paths import independent
    >>> independent(torch.zeros(1), torch.ones(1))
    (tensor([0.]), tensor([1.]), None)
    """
    return x0, x1, context
