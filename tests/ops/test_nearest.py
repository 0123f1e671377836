"""nearest: kernel against formula and the whole matrix, ties, NaN, rows by themselves, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import nearest
from pyflowk.ops import nearest as op
from pyflowk.ops.dtypes import FLOATING

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(x0: Tensor, x1: Tensor, heights: Tensor) -> Tensor:
    return x0.double() @ x1.double().T + heights.double()


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize(
    "rows, targets, size", [(1, 1, 1), (5, 130, 2), (37, 63, 3), (13, 200, 70), (2, 5, 0), (0, 4, 3)]
)
def test_against_the_whole_matrix(rows: int, targets: int, size: int, dtype: torch.dtype, name: str = "cpu") -> None:
    x0, x1 = normal(rows, size).to(dtype), normal(targets, size, seed=1).to(dtype)
    heights = normal(targets, seed=2).to(torch.float64 if dtype == torch.float64 else torch.float32)
    products = whole(x0, x1, heights)
    for backend in ("reference", name):
        with pyflowk.backend(backend):
            index, value = op(x0, x1, heights)
        assert index.dtype == torch.int64 and value.dtype == heights.dtype and index.shape == value.shape == (rows,)
        torch.testing.assert_close(value.double(), products.amax(1), rtol=1e-5, atol=1e-5)
        found = products.gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(found, products.amax(1), rtol=1e-5, atol=1e-5)  # equal but for rounding


@every_backend
def test_ties_and_targets_that_are_left_out(name: str) -> None:
    """Of equal targets the first, wherever its vector ends; whole numbers are exact."""
    x0, x1 = (2 * normal(30, 2)).round(), (2 * normal(300, 2, seed=1)).round()
    with pyflowk.backend(name):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            index, value = nearest(x0.to(dtype), x1.to(dtype))
            assert index.tolist() == (x0 @ x1.T).argmax(1).tolist() and torch.equal(value.double(), (x0 @ x1.T).amax(1))
        heights = torch.full((300,), -math.inf, dtype=torch.float64)
        heights[[7, 250]] = 0.0
        assert set(nearest(x0, x1, heights)[0].tolist()) == {7, 250}
        index, value = nearest(x0, x1, torch.full_like(heights, -math.inf))
        assert (index == 0).all() and (value == -math.inf).all()


@every_backend
def test_the_nearest_point(name: str) -> None:
    x0, x1 = normal(50, 3), normal(80, 3, seed=1)
    with pyflowk.backend(name):
        index, value = nearest(x0, x1, -x1.square().sum(1) / 2)
    distances = torch.cdist(x0, x1)
    assert torch.equal(index, distances.argmin(1))
    torch.testing.assert_close(x0.square().sum(1) - 2 * value, distances.amin(1).square())


@every_backend
def test_nan_gives_nan(name: str) -> None:
    x0, x1, heights = normal(5, 2), normal(100, 2, seed=1), torch.zeros(100, dtype=torch.float64)
    with pyflowk.backend(name):
        x0[3, 1] = math.nan
        index, value = nearest(x0, x1, heights)
        assert value.isnan().tolist() == [False, False, False, True, False]
        assert ((index >= 0) & (index < 100)).all()
        heights[70] = math.nan
        assert nearest(x0, x1, heights)[1].isnan().all()


def test_rows_by_themselves_strides_and_threads(name: str = "cpu") -> None:
    x0, x1, heights = normal(40, 5).float(), normal(333, 5, seed=1).float(), normal(333, seed=2).float()
    threads = torch.get_num_threads()
    with pyflowk.backend(name):
        index, value = nearest(x0, x1, heights)
        wide = torch.cat((x1, x1), 1)[:, :5]
        other = nearest(x0.T.contiguous().T, wide, heights.repeat_interleave(2)[::2])
        assert torch.equal(index, other[0]) and torch.equal(value, other[1])
        for row in (0, 17, 39):
            alone = nearest(x0[row : row + 1], x1, heights)
            assert torch.equal(index[row : row + 1], alone[0]) and torch.equal(value[row : row + 1], alone[1])
        try:
            torch.set_num_threads(2)
            assert all(torch.equal(a, b) for a, b in zip(nearest(x0, x1, heights), (index, value)))
        finally:
            torch.set_num_threads(threads)


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    x0, x1 = torch.zeros(4, 2), torch.zeros(3, 2)
    with pyflowk.backend(name):
        for points in ((x0, x1[:, :1]), (x0[0], x1), (x0, x1[None])):
            with pytest.raises(ValueError, match=r"nearest: expected x0 \(B, D\) and x1 \(N, D\); got"):
                nearest(*points, torch.zeros(3))
        with pytest.raises(TypeError, match=r"x1 must be (torch\.)?float32; got (torch\.)?float64"):
            nearest(x0, x1.double(), torch.zeros(3))
        with pytest.raises(TypeError, match=r"heights must be (torch\.)?float32; got (torch\.)?float64"):
            nearest(x0, x1, torch.zeros(3, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"heights must be \(3,\); got \(4,\)"):
            nearest(x0, x1, torch.zeros(4))
        with pytest.raises(ValueError, match="there is no target"):
            nearest(x0, x1[:0])
    with pytest.raises(TypeError, match="float"):
        nearest(x0.long(), x1.long(), torch.zeros(3))


def test_it_has_no_gradient_and_compiles() -> None:
    x0, x1 = normal(4, 2).requires_grad_(), normal(5, 2, seed=1)
    assert not nearest(x0, x1)[1].requires_grad
    compiled = torch.compile(lambda x0, x1: nearest(x0, x1), backend="aot_eager", fullgraph=True)
    for one, other in zip(compiled(x0.detach(), x1), nearest(x0, x1)):
        assert torch.equal(one, other)
