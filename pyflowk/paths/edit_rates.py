"""What a field of edits tells, and the rates that follow from it: the language that nets, losses and samplers share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..ops.symbols import check_symbols
from ..space import Ragged

__all__ = ["EDITS", "EditLogits", "EditRates", "Edits", "expected_edits"]

EDITS = ("insert", "delete", "substitute")
"""The kinds of edits, in the order of their rates."""
INSERT, DELETE, SUBSTITUTE = range(3)
TINIEST = -60.0
"""Below, log(1 + e^y) is e^y to the last digit."""


class Edits(NamedTuple):
    r"""Edits of B sequences, each (B, Z): their ``kind``, an index of :data:`EDITS` or -1 where there is none; the
    ``position`` that each is at; and the ``token`` that comes, 0 where none does.

    Position 0 is the start of a sequence, i its i-th token: an insertion puts its token to the right of its position.
    """

    kind: Tensor
    position: Tensor
    token: Tensor


class EditLogits(NamedTuple):
    r"""What a field tells of every position of B sequences, T = 1 + L of them, the first of which is their start.

    ``rates`` (B, T, 3) are logits a of the number of edits of each kind that are still to come there; in expectation
    it is :math:`\log(1 + (1 - \kappa_t)\, e^a)`: near 0 a number that falls with what is left of the way, as chance has
    it, and large where the sequence itself shows that something is missing. ``insert`` and ``substitute`` (B, T, K) are
    logits of the token that comes. A field of insertions alone gives rates (B, T, 1) and no ``substitute``.
    """

    rates: Tensor
    insert: Tensor
    substitute: Tensor | None = None


class EditRates:
    r"""The logits of a field as rates, for x of variable length and the share ``left`` (B,) of the way,
    :math:`1 - \kappa_t`.

    ``odds`` (B, T, 3) are :math:`a + \log(1 - \kappa_t)`, -inf where no such edit can be: beyond a sequence's end, and
    at its start, where nothing can be deleted or substituted. ``insert`` and ``substitute`` (B, T, K) are logits of
    tokens, that of the token which stands there -inf in the latter: nothing is substituted by itself. All are float32
    or better. Raises ValueError for logits of other sizes.

    >>> import torch
    >>> from pyflowk.paths import EditLogits, EditRates
    >>> from pyflowk.space import Ragged
    >>> x = Ragged(torch.tensor([[1, 0]]), torch.tensor([1]))
    >>> told = EditLogits(torch.zeros(1, 3, 3), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    >>> EditRates(told, x, torch.tensor([1.0])).log_rates.exp()[0, 1]
    tensor([0.6931, 0.6931, 0.6931])
    """

    def __init__(self, logits: EditLogits, x: Ragged, left: Tensor) -> None:
        rows, longest = x.values.shape
        _check(logits, rows, 1 + longest)
        kinds, dtype = logits.rates.shape[2], state_dtype(logits.rates)
        symbols = x.values.where(x.mask, 0).long()
        check_symbols("EditRates", "x", symbols, logits.insert.shape[2])
        places = torch.arange(1 + longest, device=x.lengths.device)
        inside = places <= x.lengths[:, None]
        there = torch.stack((inside, *[inside & (places > 0)] * (kinds - 1)), 2)
        self.insert = logits.insert.to(dtype)
        self.substitute: Tensor | None = None
        if logits.substitute is not None:
            if logits.substitute.shape[2] > 1:
                own = F.pad(symbols, (1, 0)).unsqueeze(2)
                self.substitute = logits.substitute.to(dtype).scatter(2, own, -math.inf)
            else:  # there is nothing else
                there = there & (torch.arange(kinds, device=there.device) != SUBSTITUTE)
        beside = left.to(dtype).log()[:, None, None]
        self.odds = (logits.rates.to(dtype) + beside).masked_fill(~there, -math.inf)

    @property
    def log_rates(self) -> Tensor:
        """Log of the expected number of edits to come, of each kind at each position, (B, T, 3)."""
        low = self.odds.clamp(min=TINIEST)
        return F.softplus(low).log() + (self.odds - low)

    def log_of(self, edits: Edits) -> Tensor:
        """Log of the expected number of edits just as these, (B, Z); 0 where there is none."""
        alone = self.odds.shape[2] == 1
        if alone and edits.kind.is_cpu and not transformed() and bool((edits.kind > INSERT).any()):
            raise ValueError("the path needs deletions or substitutions; the field has insertions alone")
        there = edits.kind >= 0
        at = edits.position * self.odds.shape[2] + edits.kind.clamp(min=0)
        found = self.log_rates.flatten(1).gather(1, at)
        found = found + _log_chance(self.insert, edits).where(edits.kind == INSERT, 0)
        if self.substitute is not None:
            found = found + _log_chance(self.substitute, edits).where(edits.kind == SUBSTITUTE, 0)
        return found.where(there, 0)


def _log_chance(logits: Tensor, edits: Edits) -> Tensor:
    """Log-probability of the token of each edit where it is, without a tensor of all probabilities."""
    chosen = logits.flatten(1).gather(1, edits.position * logits.shape[2] + edits.token)
    return chosen - logits.logsumexp(2).gather(1, edits.position)


def expected_edits(odds: Tensor, log_ratio: Tensor) -> Tensor:
    r"""How many edits are to be expected while what is left of the way falls from 1 to :math:`e^r` of what it was.

    .. math:: \int_{e^r}^{1} \log(1 + v\,e^o)\, dv / v = D(e^o) - D(e^{o + r}), \qquad D(z) = -\mathrm{Li}_2(-z)

    of ``odds`` o, those at the beginning, and ``log_ratio`` r up to 0, -inf for all of the way, where it is finite.
    The logits of a field are taken to stay; rates need no bound then, at the very end either. Cost: two logarithms.

    >>> import math, torch
    >>> from pyflowk.paths import expected_edits
    >>> expected_edits(torch.tensor([0.0, 5.0]), torch.tensor(-math.inf))  # pi^2 / 12 is the first
    tensor([ 0.8225, 14.1382])
    """
    return _dilogarithm(odds) - _dilogarithm(odds + log_ratio)


def _dilogarithm(y: Tensor) -> Tensor:
    r"""D(e^y) = -Li2(-e^y): for y up to 0 a series in u = log(1 + e^y), to u^9, else by its inversion formula."""
    u = F.softplus(-y.abs())
    square = u * u
    low = u + square * (1 / 4 + u * (1 / 36 + square * (-1 / 3600 + square * (1 / 211680 - square / 10886400))))
    return torch.where(y > 0, math.pi**2 / 6 + y.square() / 2 - low, low)


def _check(logits: EditLogits, rows: int, places: int) -> None:
    rates, insert, substitute = logits
    kinds = 1 if substitute is None else 3
    sizes = [tuple(part.shape) for part in (rates, insert, *([] if substitute is None else [substitute]))]
    symbols = insert.shape[-1]
    wanted = [(rows, places, kinds), *[(rows, places, symbols)] * (len(sizes) - 1)]
    if sizes != wanted:
        expected = f"rates {wanted[0]} and logits ({rows}, {places}, K)"
        raise ValueError(
            f"field of edits: expected {expected} of {EDITS[:kinds] if kinds == 1 else EDITS}, got {sizes}"
        )
