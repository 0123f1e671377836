"""The CUDA kernels of affine coupling on the CPU test bench: paths, sizes, schedules, traffic; more than the generic
op tests, which run on the same bench in tests/simt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from simt.bench import Bench
from torch import Tensor

import pyflowk
from pyflowk.ops import additive_coupling, affine_coupling
from pyflowk.ops.masks import transformed_channels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def inputs(rows: int, event: tuple[int, ...], dtype: torch.dtype, mask: str = "half") -> tuple[Tensor, Tensor]:
    return noise(rows, *event, dtype=dtype), noise(
        rows, 2 * transformed_channels(event[0], mask), *event[1:], dtype=dtype
    )


def run(name: str, x: Tensor, params: Tensor, **options: Any) -> list[Tensor]:
    """Values and gradients on one back end."""
    x, params = x.detach().requires_grad_(), params.detach().requires_grad_()
    with pyflowk.backend(name):
        outputs = affine_coupling(x, params, **options)
        return [*outputs, *torch.autograd.grad(outputs, (x, params), [torch.ones_like(o) for o in outputs])]


def assert_right(name: str, x: Tensor, params: Tensor, **options: Any) -> None:
    exact = run("reference", x.double(), params.double(), **options)
    for found, truth in zip(run(name, x, params, **options), exact):
        scale = truth.abs().max().item() + 1 if truth.numel() else 1
        error = (found.double() - truth).abs().max().item() if truth.numel() else 0
        assert error <= 16 * torch.finfo(found.dtype).eps * scale, (options, error / scale)


def shifted(t: Tensor, elements: int) -> Tensor:
    """The same values, so many elements behind a 64-byte boundary."""
    memory = torch.zeros(t.numel() + 128, dtype=t.dtype)
    start = elements + (-memory.data_ptr() // t.element_size()) % (64 // t.element_size())
    return memory[start : start + t.numel()].view_as(t).copy_(t)


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["half", "alternating", "checkerboard", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_alignment(checked: Bench, dtype: torch.dtype, mask: str) -> None:
    """A view that begins anywhere takes the scalar path; y and the gradients keep every bit."""
    x, params = inputs(3, (4, 4, 8), dtype, mask)
    aligned = run("simt", shifted(x, 0), shifted(params, 0), mask=mask)
    for by in ((1, 0), (0, 1), (3, 5), (16 // x.element_size(), 0)):
        moved = run("simt", shifted(x, by[0]), shifted(params, by[1]), mask=mask)
        for which in (0, 2, 3):
            torch.testing.assert_close(moved[which], aligned[which], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(moved[1], aligned[1], rtol=1e-5, atol=1e-5)
    assert checked.reports() == []


def width_of_stores(bench: Bench, x: Tensor, params: Tensor, **options: Any) -> set[float]:
    """32-byte sectors a warp-wide store of y needs at least: 16 of 128-bit stores, 4 of 32-bit ones."""
    with bench.options(count=True), pyflowk.backend("simt"):
        affine_coupling(x, params, **options)
    rows = [row for row in bench.traffic() if row.write and row.array.startswith("output 2")]
    return {row.minimum / row.requests for row in rows}


def test_the_vector_path_is_taken_where_it_fits(checked: Bench) -> None:
    x, params = inputs(2, (4, 16, 16), torch.float32)
    assert width_of_stores(checked, x, params) == {16}
    assert width_of_stores(checked, shifted(x, 1), params) == {4}
    assert width_of_stores(checked, x, shifted(params, 2)) == {4}
    assert width_of_stores(checked, x, params, interleaved=True) == {16}
    assert width_of_stores(checked, *inputs(2, (4, 16, 16), torch.float32, "alternating"), mask="alternating") == {16}
    assert width_of_stores(checked, *inputs(2, (2, 16, 16), torch.float32, "checkerboard"), mask="checkerboard") == {16}
    assert width_of_stores(checked, noise(1, 256), noise(1, 256), interleaved=True) == {4}


@pytest.mark.parametrize("mask, event", [("half", (6, 32, 32)), ("all", (3, 64, 32)), ("checkerboard", (3, 32, 32))])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_vector_path_touches_no_sector_twice(
    checked: Bench, dtype: torch.dtype, mask: str, event: tuple[int, ...]
) -> None:
    x, params = inputs(2, event, dtype, mask)
    with checked.options(count=True):
        run("simt", x, params, mask=mask)
    wasted = [row for row in checked.traffic() if row.requests > 8 and row.units != row.minimum]
    assert wasted == []


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 255, 256, 257, 1023, 1024, 1028, 2049, 4096, 8192, 8196, 40000])
def test_sizes_at_which_the_schedule_changes(checked: Bench, size: int) -> None:
    """A lane, a warp, a block, several blocks a row, in vectors of 4 and one by one."""
    for rows, mask in ((1, "all"), (3, "half")):
        assert_right("simt", noise(rows, size), noise(rows, 2 * transformed_channels(size, mask)), mask=mask)
    assert checked.reports() == []


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 255, 256, 257])
@pytest.mark.parametrize("width", [1, 2, 3, 8, 64])
def test_rows_that_share_a_block(checked: Bench, rows: int, width: int) -> None:
    assert_right("simt", noise(rows, width), noise(rows, 2 * transformed_channels(width)), inverse=True)
    assert checked.reports() == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_longer_than_a_block_walks(checked: Bench, dtype: torch.dtype) -> None:
    """Their segments meet in a second launch."""
    for x, params in (inputs(2, (2, 96, 96), dtype), inputs(1, (5001,), dtype)):
        assert_right("simt", x, params, inverse=True)
    assert checked.reports() == []


def test_the_sum_of_a_long_row_is_the_same_in_every_batch_and_order(checked: Bench) -> None:
    x, params = inputs(3, (2, 96, 96), torch.float32)
    together = run("simt", x, params)[1]
    with checked.options(order="shuffled", seed=3):
        alone = run("simt", x[1:2], params[1:2])[1]
    assert torch.equal(together[1:2], alone)


def test_nothing_to_transform(checked: Bench) -> None:
    for x, params in ((noise(3, 1), noise(3, 0)), (noise(0, 4), noise(0, 4)), (noise(2, 0), noise(2, 0))):
        assert_right("simt", x, params, swap=True)
    assert checked.reports() == []


# ---- more than 2^31 elements: sparse pages, and only the last blocks run -------------------------------------------


def sparse(*shape: int) -> Tensor:
    """16-bit elements in pages that no one has touched."""
    return torch.empty(shape, dtype=torch.bfloat16)


def test_the_last_of_more_than_2_31_elements(checked: Bench) -> None:
    rows, width = 2**25 + 5, 64
    x, params = sparse(rows, width), sparse(rows, width)
    x[-5:], params[-5:] = inputs(5, (width,), torch.bfloat16)
    blocks = (rows + 31) // 32
    with checked.options(check=False, blocks=(blocks - 1, blocks)), pyflowk.backend("simt"):
        y, ladj = affine_coupling(x, params)
    with pyflowk.backend("reference"):
        expected = affine_coupling(x[-5:].clone(), params[-5:].clone())
    torch.testing.assert_close(y[-5:], expected[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ladj[-5:], expected[1])


@pytest.mark.parametrize("size", [2**31 + 6, 2**31 + 64], ids=["scalar", "vectors"])
def test_the_end_of_a_row_of_more_than_2_31_elements(checked: Bench, size: int) -> None:
    x, t = sparse(1, size), sparse(1, size // 2)
    x[:, -40:], t[:, -40:] = noise(1, 40), 1.0
    segment = 8 * 256 * (8 if size % 64 == 0 else 1)
    blocks = (size + segment - 1) // segment
    with checked.options(check=False, blocks=(blocks - 2, blocks)), pyflowk.backend("simt"):
        y, _ = additive_coupling(x, t)
    assert torch.equal(y[:, -40:], (x[:, -40:].float() + 1).bfloat16())
