"""Are posteriors as wide as they should be? Where the truth ranks among samples tells."""

from __future__ import annotations

import torch
from torch import Tensor


def posterior_ranks(samples: Tensor, truth: Tensor) -> Tensor:
    r"""The rank of each true parameter among samples of its posterior, for simulation-based calibration: (N, D) int64.

    .. math:: r_{nd} = \#\{s : \theta^{(s)}_{nd} < \theta_{nd}\}

    samples are (S, N, D), S of each of N posteriors, truth (N, D) what the observations were made with. Under exact
    posteriors every rank from 0 to S is as likely; a heap in the middle says that posteriors are too wide, heaps at the
    ends that they are too narrow, a slope that they lie beside. Raises ValueError for other shapes. Cost: one pass.
    Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, arXiv:1804.06788.

    >>> import torch
    >>> from pyflowk.metrics import posterior_ranks
    >>> posterior_ranks(torch.tensor([[[1.0]], [[2.0]], [[5.0]]]), torch.tensor([[3.0]]))
    tensor([[2]])
    """
    if samples.dim() != 3 or truth.shape != samples.shape[1:]:
        raise ValueError(
            f"expected samples (S, N, D) and truth (N, D), got {tuple(samples.shape)} and {tuple(truth.shape)}"
        )
    return (samples < truth).sum(0)


def calibration_error(ranks: Tensor, draws: int) -> Tensor:
    r"""How far ranks (N, D) of 0 to ``draws`` are from even: the largest gap of each column, (D,) float64.

    .. math:: \max_r \big|\hat F(r) - (r + 1) / (S + 1)\big|

    the Kolmogorov-Smirnov distance from equal frequencies; of exact posteriors it is below :math:`1.36 / \sqrt N` in 95
    of 100 cases. Raises ValueError for none, or others than 0 to ``draws``. Cost: sorting. Source: as in
    :func:`posterior_ranks`.

    >>> import torch
    >>> from pyflowk.metrics import calibration_error
    >>> calibration_error(torch.tensor([[0, 1], [1, 1], [2, 1]]), draws=2)
    tensor([0.0000, 0.3333], dtype=torch.float64)
    """
    if ranks.dim() != 2 or not len(ranks):
        raise ValueError(f"ranks: expected (N, D) of at least one row, got {tuple(ranks.shape)}")
    if ranks.shape[1] and not 0 <= int(ranks.min()) <= int(ranks.max()) <= draws:
        raise ValueError(f"ranks: expected 0 to {draws}, got {int(ranks.min())} to {int(ranks.max())}")
    places = torch.arange(draws + 1, device=ranks.device)
    counts = [torch.bincount(column, minlength=draws + 1) for column in ranks.T]
    if not counts:
        return torch.zeros(0, dtype=torch.float64, device=ranks.device)
    share = torch.stack(counts).double().cumsum(1) / len(ranks)
    return (share - (places + 1).double() / (draws + 1)).abs().amax(1)
