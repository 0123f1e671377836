"""What can be enumerated of a few symbols: a law of data, all that a path makes of it, and the field that knows it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pyflowk.paths import MixturePath


class Law:
    """A law of rows of N symbols below K, drawn at random, on a path; states are rows of symbols on their way."""

    def __init__(self, path: MixturePath, places: int, seed: int = 0) -> None:
        self.path, self.places = path, places
        generator = torch.Generator().manual_seed(seed)
        rows = [list(row) for row in itertools.product(range(path.symbols), repeat=places)]
        self.data = torch.tensor(rows)  # (K^N, N)
        self.q = torch.rand(len(rows), generator=generator, dtype=torch.float64) + 0.05
        self.q /= self.q.sum()
        self.states = torch.tensor([list(row) for row in itertools.product(range(path.inputs), repeat=places)])
        noise = torch.zeros(path.inputs, dtype=torch.float64)
        noise[slice(path.symbols) if path.mask is None else path.symbols] = 1
        self.noise = noise / noise.sum()

    def seen(self, kappa: float, x: Tensor) -> Tensor:
        """How likely x (B, N) is seen of each row of data, (B, K^N)."""
        same = (x.unsqueeze(1) == self.data).double()
        return ((1 - kappa) * self.noise[x].unsqueeze(1) + kappa * same).prod(2)

    def marginal(self, kappa: float) -> Tensor:
        """p_t of every state."""
        return self.seen(kappa, self.states) @ self.q

    def posterior(self, kappa: float, x: Tensor) -> Tensor:
        """p(x1 | x_t = x) of every place, (B, N, K), even where x cannot be."""
        joint = self.seen(kappa, x) * self.q
        of_each = torch.nn.functional.one_hot(self.data, self.path.symbols).double()
        mass = torch.einsum("br,rnk->bnk", joint, of_each)
        total = mass.sum(-1, keepdim=True)
        return torch.where(total > 0, mass / total, 1 / self.path.symbols)

    def field(self, t: Tensor, x: Tensor) -> Tensor:
        """The logits that a perfect network would give, at one time for all rows or at one for each."""
        kappas = self.path.kappa(t.double()).expand(len(x))
        if self.path.mask is not None:  # what it hides does not depend on the time
            kappas = torch.full_like(kappas, 0.5)
        found = torch.zeros(*x.shape, self.path.symbols, dtype=torch.float64)
        for kappa in kappas.unique().tolist():
            rows = kappas == kappa
            found[rows] = self.posterior(kappa, x[rows])
        return found.log()

    def number(self, x: Tensor) -> Tensor:
        """Which state each row is, (B,)."""
        return (x * self.path.inputs ** torch.arange(self.places - 1, -1, -1)).sum(1)

    def kernel(
        self, kappa: float, jump: Tensor, renoise: Tensor, own: float = 0.0, places: Tensor | None = None
    ) -> Tensor:
        """The transitions (S, S) of a step in which each symbol is drawn from data or from noise by chance, (S, N)."""
        p = self.posterior(kappa, self.states).log()
        if self.path.mask is None:
            p.scatter_add_(2, self.states.unsqueeze(2), torch.full((*self.states.shape, 1), own, dtype=torch.float64))
        p = torch.nn.functional.pad(p.softmax(2), (0, self.path.inputs - self.path.symbols))
        stay = torch.nn.functional.one_hot(self.states, self.path.inputs).double()
        jump, renoise = (c.double().expand(self.states.shape).unsqueeze(2) for c in (jump, renoise))
        if self.path.mask is not None:
            masked = (self.states == self.path.mask).unsqueeze(2)
            jump, renoise = jump * masked, renoise * ~masked
        each = jump * p + renoise * self.noise + (1 - jump - renoise) * stay  # (S, N, inputs)
        found = torch.ones(len(self.states), len(self.states), dtype=torch.float64)
        for i in range(self.places):
            found *= each[:, i, self.states[:, i]]
        return found


def chi_square(counts: Tensor, law: Tensor) -> float:
    """The p-value of counts (S,) under a law (S,); counts where there is no law give 0."""
    if counts[law < 1e-15].any():
        return 0.0
    counts, law = counts[law >= 1e-15].double(), law[law >= 1e-15]
    expected = law * counts.sum()
    rare = expected < 5
    if rare.any():  # taken together
        counts, expected = (torch.cat((v[~rare], v[rare].sum().unsqueeze(0))) for v in (counts, expected))
    statistic = ((counts - expected).square() / expected.clamp(min=1e-30)).sum()
    return float(1 - torch.special.gammainc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2))
