"""Balanced brackets: rows of several lengths, of which every symbol depends on others far away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...space import Ragged, Space
from ..base import Dataset, split
from ..registry import register

PAIRS = 8
COUNT = 10_000


@register("brackets", "2 to 16 balanced brackets")
def load_brackets(seed: int) -> Dataset:
    """10,000 rows of 1 to 8 pairs of brackets, each number as likely, and of each all balanced rows; the entropy of a
    row is known. 80 % train, 10 % validate, 10 % test."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(1, PAIRS + 1, (COUNT,), generator=generator)
    space = Space((2 * PAIRS,), symbols=2, variable=True, alphabet="()")
    entropy = math.log(PAIRS) + sum(math.log(math.comb(2 * n, n) / (n + 1)) for n in range(1, PAIRS + 1)) / PAIRS
    data = split("brackets", space, Ragged(_balanced(pairs, generator), 2 * pairs), seed=seed)
    return Dataset("brackets", space, data.train, data.valid, data.test, entropy=entropy, fingerprint=data.fingerprint)


def _balanced(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of so many pairs, all as likely: with a left to open and h open the next one opens with probability
    a (h + 2) / ((2 a + h) (h + 1)), the share of what can follow (Arnold, Sleep, 1980)."""
    left, height, columns = pairs.clone(), torch.zeros_like(pairs), []
    for _ in range(2 * PAIRS):
        chance = left * (height + 2) / ((2 * left + height).clamp(min=1) * (height + 1))
        opens = torch.rand(len(pairs), generator=generator) < chance
        left, height = left - opens.long(), height + torch.where(opens, 1, -1)
        height = height.clamp(min=0)
        columns.append((~opens).long())
    return torch.stack(columns, 1)
