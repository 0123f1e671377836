"""Dequantize, Logit, Scale, Standardize: the way from data to real numbers."""

from __future__ import annotations

import pytest
import torch

from pyflowk import zoo
from pyflowk.transforms import Dequantize, Logit, Scale, Standardize


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
def test_noise_never_reaches_the_next_integer(levels: int) -> None:
    dequantize = Dequantize(levels)
    x = torch.full((100_000, 1), float(levels - 1))
    z, _ = dequantize(x, generator=torch.Generator().manual_seed(0))
    assert z.min() >= levels - 1 and z.max() < levels
    assert torch.equal(dequantize.inverse(z)[0], x)


def test_noise_is_uniform_and_repeats_with_its_generator() -> None:
    x = torch.zeros(50_000, 1, dtype=torch.uint8)
    u, ladj = Dequantize(256)(x, generator=torch.Generator().manual_seed(3))
    assert torch.equal(u, Dequantize(256)(x, generator=torch.Generator().manual_seed(3))[0])
    assert u.dtype == ladj.dtype == torch.float32
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005


def test_dequantize_inverse_clamps_to_the_levels() -> None:
    z = torch.tensor([[-0.3, 0.0, 3.9, 4.2]])
    assert Dequantize(4).inverse(z)[0].tolist() == [[0.0, 0.0, 3.0, 3.0]]


@pytest.mark.parametrize("levels", [1, 2.5, "4"])
def test_dequantize_refuses(levels: object) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Dequantize(levels)  # type: ignore[arg-type]


def test_logit_far_out_is_finite() -> None:
    z = torch.tensor([[-1e4, 0.0, 1e4]])
    x, ladj = Logit(0.05).inverse(z)
    assert x.isfinite().all() and ladj.isfinite().all()
    torch.testing.assert_close(x[0, [0, 2]], torch.tensor([-0.05 / 0.9, 0.95 / 0.9]))


def test_logit_keeps_the_ends_of_the_interval_finite() -> None:
    z, ladj = Logit(0.05)(torch.tensor([[0.0, 1.0]]))
    assert z.isfinite().all() and ladj.isfinite().all()
    with pytest.raises(ValueError, match="margin"):
        Logit(0.5)


def test_scale_refuses() -> None:
    for factor in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite factor"):
            Scale(factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16])
def test_values_that_are_no_levels_are_refused(dtype: torch.dtype) -> None:
    """By the layer, so by every model that has it; a NaN comes out as one."""
    model = zoo.create("nice", (2,), levels=4, width=4)
    for call in (Dequantize(4), model.log_prob, zoo.create("nice", (2,), levels=4, dequantize="variational").loss):
        for wrong in ([[0, 4]], [[-1, 0]], [[0.5, 1]], [[0, torch.inf]]):
            x = torch.tensor(wrong, dtype=torch.float64).nan_to_num(posinf=4).to(dtype)
            if torch.equal(x.double().round(), torch.tensor(wrong, dtype=torch.float64)):  # the dtype can hold it
                with pytest.raises(ValueError, match=r"x: expected integers 0 to 3 \(4 levels\), got"):
                    call(x if dtype != torch.float64 else x.float())
    if dtype.is_floating_point:
        with pytest.raises(ValueError, match=r"4 levels\), got 0\.5"):
            Dequantize(4)(torch.tensor([[0.5, torch.nan]], dtype=dtype))
        assert Dequantize(4)(torch.tensor([[3, torch.nan]], dtype=dtype))[0].isnan().tolist() == [[False, True]]
    assert model.double().loss(torch.tensor([[0, 3]]).to(dtype)).dtype == torch.float64


def test_standardize_fits() -> None:
    x = 3 + 2 * torch.randn(500, 4)
    x[:, 3] = 1
    standardize = Standardize((4,))
    assert torch.equal(standardize(x)[0], x)
    z = standardize.initialize(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z[:, :3].std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    x[7, 3] = 2  # a row that differs from the training set is not 1e6 deviations away
    torch.testing.assert_close(standardize(x)[0][7, 3], torch.tensor(1.0))
    with pytest.raises(ValueError, match="finite numbers"):
        standardize.fit(x / 0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        standardize.fit(x[:1])
    with pytest.raises(ValueError, match=r"\(B, 4\), got \(2, 3\)"):
        standardize(torch.zeros(2, 3))
