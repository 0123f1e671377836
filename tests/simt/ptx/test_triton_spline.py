"""Triton's PTX of the spline, run on the bench under the checker, against the formula in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")

from simt.bench import Bench, Buffer
from simt.ptx import build
from simt.ptx.test_triton import DTYPES, EVENT, THREADS, buffer_of, tensor_of

import pyflowk
from pyflowk.ops._triton import rq_spline as kernels
from pyflowk.ops.masks import mask_code, transformed_channels
from pyflowk.ops.rq_spline import spline_params
from tests.triton_backend.test_compiled import TARGETS, spline_binary

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

BINS, ROWS, SIZE = 3, 2, 1024
CASES = [  # state, params, mask, tails, inverse, interleaved, softclip
    ("fp32", "fp32", "half", "linear", False, False, 6.9),
    ("fp64", "fp64", "all", "bounded", True, False, 0.0),
    ("fp32", "bf16", "checkerboard", "circular", True, True, 0.0),
]


def launch(bench: Bench, name: str, values: Sequence[Buffer | int], per_element: int, shared: int) -> None:
    """As the launcher does: integers are 32 bits wide, two pointers to scratch memory, not used, come last."""
    words = [bytes(ctypes.c_int32(v)) if isinstance(v, int) else v for v in values]
    tile = kernels._tiling(SIZE, per_element)
    grid = -(-ROWS // tile["ROWS"]), -(-SIZE // tile["SEGMENT"]), 1
    build.launch(bench, name, [*words, 0, 0], grid=grid, block=THREADS, shared=shared)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_values_and_gradients(case: tuple[str, str, str, str, bool, bool, float]) -> None:
    state, param, mask, tails, inverse, interleaved, softclip = case
    made = {name: spline_binary(name, TARGETS[0], *case, BINS) for name in ("_forward", "_backward")}
    bench = Bench(build.library([b.asm["ptx"] for b in made.values()], benign_equal_stores=True), check=True)
    per_element, real = spline_params(BINS, tails), torch.float64 if state == "fp64" else torch.float32
    torch.manual_seed(0)
    x = torch.randn(ROWS, *EVENT, dtype=torch.float64).mul(1.5).to(DTYPES[state])
    channels = per_element * transformed_channels(EVENT[0], mask, False)
    params = (0.5 * torch.randn(ROWS, channels, *EVENT[1:])).to(DTYPES[param])
    dy, dladj = torch.randn_like(x), torch.randn(ROWS, dtype=real)

    exact = x.double().requires_grad_(), params.double().requires_grad_()
    options = {"mask": mask, "tails": tails, "inverse": inverse, "interleaved": interleaved, "softclip": softclip}
    with pyflowk.backend("reference"):
        outputs = pyflowk.ops.rq_spline(*exact, **options, bins=BINS)
    gradients = torch.autograd.grad(outputs, exact, (dy.double(), dladj.double()))

    numbers, _ = kernels._event(x.shape, mask_code(mask, False), interleaved, per_element)
    place = [numbers[name] for name in ("shift", "begin", "end", "inner", "width_of_board")]
    width = params[0].numel()
    inputs = buffer_of(bench, "x", x), buffer_of(bench, "params", params)
    y, sums, dx, dparams = (
        bench.buffer(name, nbytes, ctypes.c_uint8)
        for name, nbytes in (
            ("y", x.nbytes), ("sums", ROWS * real.itemsize), ("dx", x.nbytes), ("dparams", params.nbytes),
        )
    )  # fmt: skip
    launch(bench, "_forward", [*inputs, y, sums, ROWS, SIZE, SIZE, width, *place, 1], per_element,
           made["_forward"].metadata.shared)  # fmt: skip
    argument = y if inverse else inputs[0]
    given = [argument, inputs[1], buffer_of(bench, "dy", dy), buffer_of(bench, "dladj", dladj), dx, dparams]
    launch(bench, "_backward", [*given, ROWS, SIZE, width, SIZE, width, SIZE, 1, *place], per_element,
           made["_backward"].metadata.shared)  # fmt: skip

    found = [tensor_of(y, x.dtype, *x.shape), tensor_of(sums, real, ROWS), tensor_of(dx, x.dtype, *x.shape),
             tensor_of(dparams, params.dtype, *params.shape)]  # fmt: skip
    for ours, truth in zip(found, [*outputs, *gradients], strict=True):
        bound = 64 * torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.double(), truth, rtol=bound, atol=bound * (1 + truth.abs().max().item()))
