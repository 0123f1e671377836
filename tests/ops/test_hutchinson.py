"""The random directions of Hutchinson's estimate: the right generator, the right moments, a row's own."""

from __future__ import annotations

import pytest
import torch

import pyflowk
from pyflowk.ops.hutchinson import Probes, _philox, draw_probes, trace_estimate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "word, expected",  # of the authors' table of known answers
    [
        (0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (0xFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ],
)
def test_the_generator_is_philox(word: int, expected: list[int]) -> None:
    both = torch.tensor([-1 if word else 0])  # two words of ones, or of zeros
    assert [int(w) for w in _philox(both, both, torch.tensor([word]), word)] == expected


@pytest.mark.parametrize("size", [1, 37, 300])
def test_kernel_and_formula_make_the_same_directions(size: int) -> None:
    for noise in ("rademacher", "gaussian"):
        for dtype in (torch.float32, torch.float64):
            x = torch.zeros(5, size, dtype=dtype)
            probes = draw_probes(x, 3, noise, seeded())
            kernel = probes.directions(x)
            with pyflowk.backend("reference"):
                formula = probes.directions(x)
            tolerance = 0 if noise == "rademacher" else 16 * torch.finfo(dtype).eps
            torch.testing.assert_close(kernel, formula, rtol=tolerance, atol=tolerance)
            for row in range(5):  # whatever stands beside it
                alone = Probes(probes.keys[row : row + 1], 3, noise).directions(x[:1])
                assert torch.equal(alone[0], kernel[row])


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
