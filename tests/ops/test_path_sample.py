"""Samples of affine paths: whose noise it is, what the generic tests do not see of bad input, and its moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import path_sample, random_numbers

BACKENDS = ["reference", "cpu"]


def coefficients_of(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(torch.randn(4, rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("event", [(1,), (2,), (4,), (5,), (3, 43), (200,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_is_that_of_random_numbers(event: tuple[int, ...], dtype: torch.dtype) -> None:
    keys = torch.arange(70) * 2**40 + 3
    x1, c = torch.randn(70, *event, dtype=dtype), coefficients_of(70, dtype)
    noise = random_numbers(keys, 1, x1[0].numel(), dtype=dtype).reshape(x1.shape)
    for drawn, given in zip(path_sample(x1, c, keys=keys), path_sample(x1, c, x0=noise)):
        assert torch.equal(drawn, given)


@pytest.mark.parametrize("event", [(2,), (3, 50)])
def test_the_same_noise_with_and_without_kernel(event: tuple[int, ...]) -> None:
    keys, x1, c = torch.arange(40) - 20, torch.randn(40, *event), coefficients_of(40)
    with pyflowk.backend("cpu"):
        kernel = path_sample(x1, c, keys=keys)
    with pyflowk.backend("reference"):
        formula = path_sample(x1, c, keys=keys)
    for ours, theirs in zip(kernel, formula):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_the_noise_is_standard_normal() -> None:
    keys = torch.randint(-(2**63), 2**63 - 1, (4000,), generator=torch.Generator().manual_seed(0))
    one, zero = torch.ones(4000), torch.zeros(4000)
    noise, still = path_sample(torch.ones(4000, 5), (zero, one, zero, zero), keys=keys)
    assert not still.any()
    covariance = noise.T @ noise / 4000
    assert noise.mean(0).abs().max() < 5 / 4000**0.5
    torch.testing.assert_close(covariance, torch.eye(5), rtol=0, atol=5 * (2 / 4000) ** 0.5)


@pytest.mark.parametrize("name", BACKENDS)
def test_bad_input_is_refused(name: str) -> None:
    x, c, keys = torch.zeros(3, 2), coefficients_of(3), torch.arange(3)
    with pytest.raises(ValueError, match="expected either keys or x0; got none"):
        path_sample(x, c)
    with pytest.raises(ValueError, match="expected either keys or x0; got both"):
        path_sample(x, c, keys=keys, x0=x)
    with pyflowk.backend(name):
        with pytest.raises(ValueError, match="expected alpha, sigma and the rates of both; got 3 tensors"):
            path_sample(x, c[:3], keys=keys)
        with pytest.raises(ValueError, match=r"a coefficient must be \(3,\), a number a row; got \(2,\)"):
            path_sample(x, coefficients_of(2), x0=x)
        with pytest.raises(TypeError, match=r"path_between: a coefficient must be .*float32; got .*float64"):
            path_sample(x, coefficients_of(3, torch.float64), x0=x)
        with pytest.raises(ValueError, match=r"path_between: x0 must have the shape of x1, \(3, 2\); got \(3, 1\)"):
            path_sample(x, c, x0=x[:, :1])
        with pytest.raises(TypeError, match=r"path_between: x0 must be .*float32; got .*float64"):
            path_sample(x, c, x0=x.double())
        with pytest.raises(ValueError, match=r"path_sample: keys must be \(3,\), one a row; got \(2,\)"):
            path_sample(x, c, keys=keys[:2])
        with pytest.raises(TypeError, match="int64"):
            path_sample(x, c, keys=keys.int())
        with pytest.raises(ValueError, match=r"x1 must be \(B, \*event\); got \(\)"):
            path_sample(x[0, 0], c, keys=keys)
        with pytest.raises(TypeError):
            path_sample(x.int(), c, keys=keys)
