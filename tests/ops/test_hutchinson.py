"""The random directions of Hutchinson's estimate: the right moments, and what is made of them."""

from __future__ import annotations

import pytest
import torch

import pyflowk
from pyflowk.ops.hutchinson import Probes, draw_probes, trace_estimate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise, fourth", [("rademacher", 1.0), ("gaussian", 3.0)])
def test_moments(noise: str, fourth: float) -> None:
    x = torch.zeros(4000, 6, dtype=torch.float64)
    e = draw_probes(x, 5, noise, seeded()).directions(x).flatten(1)  # probes as further dimensions
    n = len(e)
    assert (e.mean(0).abs() < 5 / n**0.5).all()
    assert ((e.t() @ e / n - torch.eye(30, dtype=e.dtype)).abs() < 5 * 3**0.5 / n**0.5).all()
    assert ((e**4).mean(0) - fourth).abs().max() < (1e-12 if fourth == 1 else 5 * 96**0.5 / n**0.5)


def test_estimate_is_the_plain_formula_of_the_same_directions() -> None:
    for noise in ("rademacher", "gaussian"):
        images = torch.randn(4, 2, 3, 50, dtype=torch.float64, generator=seeded(1))
        probes = draw_probes(images[:, 0], 2, noise, seeded())
        products, squares = trace_estimate(images, probes)
        e = probes.directions(images[:, 0])
        torch.testing.assert_close(products, (e * images).flatten(2).sum(2).mean(1))
        torch.testing.assert_close(squares, (images * images).flatten(2).sum(2).mean(1))


def test_bad_input_is_refused() -> None:
    x = torch.zeros(3, 4)
    probes = draw_probes(x, 2)
    with pytest.raises(ValueError, match="at least one probe, got 0"):
        draw_probes(x, 0)
    with pytest.raises(ValueError, match="noise: expected one of rademacher, gaussian; got 'normal'"):
        draw_probes(x, 1, "normal")
    with pytest.raises(ValueError, match=r"images must be \(B, 2, \*event\); got \(3, 1, 4\)"):
        trace_estimate(torch.zeros(3, 1, 4), probes)
    for name in ("reference", "cpu"):
        with pyflowk.backend(name):
            with pytest.raises(ValueError, match=r"keys must be \(2,\), one a row; got \(3,\)"):
                trace_estimate(torch.zeros(2, 2, 4), probes)
            with pytest.raises(TypeError, match="int64"):
                trace_estimate(torch.zeros(3, 2, 4), Probes(probes.keys.int(), 2, "gaussian"))
