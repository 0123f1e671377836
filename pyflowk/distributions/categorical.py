"""Symbols, drawn independently of each other: the noise of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from .base import Distribution, check_below


class Categorical(Distribution):
    r"""Independent symbols 0..K-1, :math:`p(z) = \prod_l p_l(z_l)`: uniform, given, or learned from there.

    ``probabilities`` (K,) serve every place of the shape, (\*shape, K) are those of each; what they sum to does not
    matter, and a 0 is a symbol that never comes: all weight on one symbol is the noise of masked models. Events are
    integers of any dtype, samples int64. ``learned=True`` makes the logits (\*shape, K) parameters. ``temperature``
    divides the logits. A context is accepted and ignored. Raises ValueError for probabilities that are negative, not
    finite or all 0 at a place, and on the CPU for symbols out of range (elsewhere looking would stall the device);
    TypeError for events that are no integers. Cost: a table of K numbers a place; each draw a search in it.

    >>> import torch
    >>> from pyflowk.distributions import Categorical
    >>> noise = Categorical((2,), symbols=3, probabilities=[0.5, 0.25, 0.25])
    >>> noise.log_prob(torch.tensor([[0, 2]])).exp(), noise.sample(5).dtype
    (tensor([0.1250]), torch.int64)
    """

    reparameterised = False

    def __init__(
        self,
        shape: Sequence[int],
        symbols: int,
        probabilities: Sequence[float] | Tensor | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__(shape)
        require_counts("Categorical", symbols=symbols)
        self.symbols, self.learned = symbols, learned
        logits = torch.zeros(*self.shape, symbols)
        if probabilities is not None:
            logits += self._weights(probabilities).log().to(logits)
        self.logits: Tensor
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def _weights(self, probabilities: Sequence[float] | Tensor) -> Tensor:
        weights = torch.as_tensor(probabilities, dtype=torch.float64, device="cpu").detach()
        if tuple(weights.shape) not in ((self.symbols,), (*self.shape, self.symbols)):
            places = ", ".join(map(str, (*self.shape, self.symbols)))
            raise ValueError(f"probabilities: expected ({self.symbols},) or ({places}), got {tuple(weights.shape)}")
        if not ((weights >= 0) & weights.isfinite()).all() or not (weights.sum(-1) > 0).all():
            raise ValueError("probabilities: expected finite numbers of at least 0, some above 0 at every place")
        return weights

    def _enter(self, z: Tensor) -> Tensor:
        if z.is_floating_point() or z.is_complex() or z.dtype == torch.bool:
            raise TypeError(f"z: expected symbols of an integer dtype, got {z.dtype}")
        check_below("z", z, self.symbols, "symbols")
        return z.long()

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        logits = self.logits.to(state_dtype(self.logits)) / temperature
        table = torch.log_softmax(logits, -1).reshape(self.dims, self.symbols)
        rows = z.reshape(z.shape[0], self.dims)
        places = torch.arange(self.dims, device=z.device)
        return table[places, rows].sum(1)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        ends = (self.logits.double() / temperature).softmax(-1).cumsum(-1).reshape(self.dims, self.symbols)
        ends = ends / ends[:, -1:]  # exactly 1 from the last symbol on that comes: nothing is drawn beyond it
        uniform = draw_uniform((n, self.dims), generator, dtype=torch.float64, device=ends.device)
        return torch.searchsorted(ends, uniform.T.contiguous(), right=True).T.reshape(n, *self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}, symbols={self.symbols}, learned={self.learned}"
