"""What a network hears of the time: the waves by another program, their precision, and how smooth they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import halfnorm

from pyflowk.nets import TimeEmbedding


@pytest.mark.parametrize("scale", [1.0, 999.0])
@pytest.mark.parametrize("kind", ["sinusoidal", "fourier"])
def test_the_waves_are_those_of_the_formula(kind: str, scale: float) -> None:
    net, t = TimeEmbedding(3, kind, scale, waves=10).double(), np.array([0.0, 0.1, 0.77, 1.0])
    i = np.arange(5)
    rates = scale * (1e4 ** (-i / 5) if kind == "sinusoidal" else 2 * math.pi * halfnorm.ppf((i + 0.5) / 5))
    waves = torch.tensor(np.concatenate((np.cos(np.outer(t, rates)), np.sin(np.outer(t, rates))), 1))
    expected = net.second(F.silu(net.first(waves)))
    torch.testing.assert_close(net(torch.tensor(t)), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net(torch.tensor(t[2])), expected[2], rtol=1e-9, atol=1e-9)


def test_narrow_weights_leave_the_frequencies_alone() -> None:
    torch.manual_seed(0)
    net, t = TimeEmbedding(16, scale=1000.0), torch.linspace(0, 1, 50)
    wide = net(t)
    torch.testing.assert_close(net.bfloat16()(t).float(), wide, rtol=0.03, atol=0.03)
    assert wide.std(0).max() > 0.1  # frequencies that were rounded to 8 bits would give something else altogether


def test_the_derivative_by_the_time() -> None:
    net, t, h = TimeEmbedding(4, scale=5.0).double(), torch.tensor(0.3, dtype=torch.float64), 1e-5
    slope = torch.func.jvp(net, (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(slope, (net(t + h) - net(t - h)) / (2 * h), rtol=1e-6, atol=1e-8)


def test_what_is_no_embedding() -> None:
    with pytest.raises(ValueError, match="kind: expected one of sinusoidal, fourier; got 'learned'"):
        TimeEmbedding(4, "learned")
    with pytest.raises(ValueError, match="an even number of waves, got 7"):
        TimeEmbedding(4, waves=7)
    with pytest.raises(ValueError, match="scale to be a finite number of at least 0, got inf"):
        TimeEmbedding(4, scale=math.inf)
