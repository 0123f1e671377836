"""Triton's PTX, run on the bench under the checker, against the formula in float64."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton")

from simt.bench import Bench, Buffer, KernelError
from simt.ptx import build

import pyflowk
from pyflowk.ops._triton import affine_coupling as kernels
from pyflowk.ops.affine_coupling import BOUNDS
from pyflowk.ops.masks import mask_code, transformed_channels
from tests.ops import test_rk_control
from tests.triton_backend.test_compiled import TARGETS, TIMES, WEIGHTS, binary, rk_binary, rk_tile

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

EVENT = (4, 16, 16)  # what `compiled` specialises for
THREADS = 128
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
CASES = [  # state, params, mask, bound, inverse, interleaved
    ("fp32", "fp32", "half", "tanh", False, False),
    ("bf16", "bf16", "half", "tanh", True, False),
    ("fp64", "fp64", "half", "tanh", True, False),
    ("fp16", "fp16", "alternating", "sigmoid", False, True),
    ("fp32", "bf16", "checkerboard", "sigmoid", True, False),
]
KERNELS = [(target, case) for target, case in itertools.product(TARGETS[:2], CASES)]
NAMES = [f"{target.arch}-{'-'.join(map(str, case))}" for target, case in KERNELS]


class Kernels:
    """The two kernels of one case in one library; Triton lets lanes store one value twice on purpose."""

    def __init__(self, target: Any, case: tuple[str, str, str, str, bool, bool]) -> None:
        made = {name: binary(name, target, *case) for name in ("_forward", "_backward")}
        self.case = case
        self.shared = {name: b.metadata.shared for name, b in made.items()}
        self.bench = Bench(build.library([b.asm["ptx"] for b in made.values()], benign_equal_stores=True), check=True)

    def launch(self, name: str, values: Sequence[Buffer | int], rows: int) -> None:
        """As the launcher does: integers are 32 bits wide, two pointers to scratch memory, not used, come last."""
        words = [bytes(ctypes.c_int32(v)) if isinstance(v, int) else v for v in values]
        tile = kernels.tiling(1024)
        grid = -(-rows // tile["ROWS"]), -(-1024 // tile["SEGMENT"]), 1
        build.launch(self.bench, name, [*words, 0, 0], grid=grid, block=THREADS, shared=self.shared[name])


@pytest.fixture(scope="module", params=KERNELS, ids=NAMES)
def compiled(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(*request.param)


def buffer_of(bench: Bench, name: str, values: Tensor) -> Buffer:
    return bench.buffer(name, bytes(values.contiguous().view(torch.uint8).flatten().tolist()), ctypes.c_uint8)


def tensor_of(buffer: Buffer, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.frombuffer(buffer.values, dtype=dtype).reshape(shape).clone()


def close(found: Tensor, expected: Tensor) -> None:
    eps = torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=8 * eps, atol=8 * eps * (1 + expected.abs().max().item()))


@pytest.mark.parametrize("rows", [1, 5])
def test_values_and_gradients(compiled: Kernels, rows: int) -> None:
    bench, (state, param, mask, bound, inverse, interleaved) = compiled.bench, compiled.case
    real = torch.float64 if state == "fp64" else torch.float32
    torch.manual_seed(rows)
    x = torch.randn(rows, *EVENT, dtype=torch.float64).to(DTYPES[state])
    params = torch.randn(rows, 2 * transformed_channels(EVENT[0], mask, False), *EVENT[1:]).to(DTYPES[param])
    dy, dladj = torch.randn_like(x), torch.randn(rows, dtype=real)

    exact_x, exact_params = x.double().requires_grad_(), params.double().requires_grad_()
    options = {"mask": mask, "bound": bound, "inverse": inverse, "interleaved": interleaved}
    with pyflowk.backend("reference"):
        exact = pyflowk.ops.affine_coupling(exact_x, exact_params, **options)
    size, width = x[0].numel(), params[0].numel()
    numbers, _ = kernels.layout(x.shape, mask_code(mask, False), BOUNDS[bound], interleaved)
    place = [numbers[name] for name in ("shift", "begin", "end", "inner", "width")]

    inputs = buffer_of(bench, "x", x), buffer_of(bench, "params", params)
    y = bench.buffer("y", x.nbytes, ctypes.c_uint8)
    sums = bench.buffer("sums", rows * real.itemsize, ctypes.c_uint8)
    compiled.launch("_forward", [*inputs, y, sums, rows, size, size, width, size, *place, 1], rows)
    close(tensor_of(y, x.dtype, *x.shape), exact[0].detach())
    torch.testing.assert_close(tensor_of(sums, real, rows).double(), exact[1].detach(), rtol=1e-5, atol=1e-4)

    output = tensor_of(y, x.dtype, *x.shape)  # the gradient is that of the rounded output
    with pyflowk.backend("reference"):
        back = pyflowk.ops.affine_coupling(
            output.double(), exact_params.detach(), **{**options, "inverse": not inverse}
        )
        again = back[0].requires_grad_(), exact_params.detach().requires_grad_()
        outputs = pyflowk.ops.affine_coupling(*again, **options)
        expected = torch.autograd.grad(outputs, again, (dy.double(), dladj.double()))
    gradients = [buffer_of(bench, "dy", dy), buffer_of(bench, "dladj", dladj)]
    dx, dparams = (bench.buffer(n, t.nbytes, ctypes.c_uint8) for n, t in (("dx", x), ("dparams", params)))
    given = [buffer_of(bench, "y", output), inputs[1], *gradients, dx, dparams]
    compiled.launch("_backward", [*given, rows, size, width, size, width, size, 1, *place], rows)
    close(tensor_of(dx, x.dtype, *x.shape), expected[0])
    close(tensor_of(dparams, params.dtype, *params.shape), expected[1])


def test_wrong_specialisation_is_found() -> None:
    """A kernel compiled for rows of a multiple of 16 elements, run on rows of 1002."""
    wrong = Kernels(TARGETS[0], CASES[0])
    rows, size = 2, 1002
    x, params = (wrong.bench.buffer(name, [0.0] * rows * size) for name in ("x", "params"))
    y, sums = (wrong.bench.buffer(name, n) for name, n in (("y", rows * size), ("sums", rows)))
    with pytest.raises(KernelError, match=r"MISALIGNED (read|write) of 16 bytes"):
        wrong.launch("_forward", [x, params, y, sums, rows, size, size, size, size, 501, 501, 1002, 1, 1, 1], rows)


class RungeKutta:
    """Some kernels of rk_step for rows of `size` in one library."""

    def __init__(self, names: Sequence[str], state: str, size: int) -> None:
        made = [rk_binary(name, TARGETS[1], state, size) for name in names]
        self.bench = Bench(build.library([b.asm["ptx"] for b in made], benign_equal_stores=True), check=True)
        self.shared = dict(zip(names, (b.metadata.shared for b in made)))
        self.size = size

    def room(self, like: Tensor) -> Buffer:
        return self.bench.buffer("output", like.nbytes, ctypes.c_uint8)

    def launch(self, name: str, rows: int, *values: Tensor | Buffer | float) -> None:
        """As the launcher does; see `Kernels`."""
        words: list[Buffer | bytes | int] = []
        for value in values:
            if isinstance(value, Tensor):
                words.append(buffer_of(self.bench, "input", value))
            elif isinstance(value, Buffer):
                words.append(value)
            else:
                words.append(bytes(ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int32(value)))
        tile = rk_tile(name, self.size)
        grid = -(-rows // tile["ROWS"]), -(-self.size // tile["COLUMNS"]) if name == "_combine" else 1, 1
        build.launch(self.bench, name, [*words, 0, 0], grid=grid, block=THREADS, shared=self.shared[name])


@pytest.mark.parametrize("state, size", [("fp32", 48), ("bf16", 1504), ("fp64", 1024)])
def test_runge_kutta_steps(state: str, size: int) -> None:
    """Rows that share a tile, and rows of several tiles of which the last is not full."""
    names, rows = ["_combine", "_combine_backward", "_error"], 3
    if state == "bf16":
        names.remove("_error")  # packed absolute values, which the bench does not know
    kernels = RungeKutta(names, state, size)
    room = kernels.room
    dtype, real = DTYPES[state], torch.float64 if state == "fp64" else torch.float32
    generator = torch.Generator().manual_seed(size)
    y, *ks, dy = torch.randn(2 + len(WEIGHTS), rows, size, generator=generator, dtype=torch.float64).to(dtype)
    h = torch.rand(rows, generator=generator, dtype=real)

    wide = [t.double().requires_grad_() for t in (y, h, *ks)]
    with pyflowk.backend("reference"):
        expected = pyflowk.ops.rk_combine(wide[0], wide[1], wide[2:], WEIGHTS)
        gradients = torch.autograd.grad(expected, wide, dy.double())
        norms = pyflowk.ops.rk_error(wide[0], dy.double(), wide[1], wide[2:], WEIGHTS, rtol=0.25, atol=0.5).detach()
    strides, out, dh, norm, dks = [size] * len(ks), room(y), room(h), room(h), [room(k) for k in ks]
    kernels.launch("_combine", rows, y, h, *ks, out, rows, size, size, 1, *strides)
    close(tensor_of(out, dtype, rows, size), expected.detach())
    kernels.launch("_combine_backward", rows, h, *ks, dy, dh, *dks, rows, size, 1, *strides, size)
    torch.testing.assert_close(tensor_of(dh, real, rows).double(), gradients[1], rtol=1e-5, atol=1e-4)
    for found, exact in zip(dks, gradients[2:]):
        close(tensor_of(found, dtype, rows, size), exact)
    if "_error" not in names:
        return
    kernels.launch("_error", rows, y, dy, h, *ks, norm, rows, size, size, size, 1, *strides, 0.25, 0.5)
    torch.testing.assert_close(tensor_of(norm, real, rows).double(), norms, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("state, size", [("fp32", 48), ("fp64", 1504)])
def test_runge_kutta_control(state: str, size: int) -> None:
    """Clocks of every kind: of rows that share a tile, and of rows of two tiles."""
    kernels = RungeKutta(["_control"], state, size)
    rows = 33
    states, clock, slopes = test_rk_control.inputs(rows, (size,), len(WEIGHTS), DTYPES[state])
    with pyflowk.backend("reference"):
        expected = pyflowk.ops.rk_control(*states, clock, slopes, WEIGHTS, test_rk_control.PID, TIMES)
    outputs = [kernels.room(part) for part in expected]
    strides = [size, size, size, size, clock.stride(0), *[size] * len(slopes)]
    tensors = *states, clock, *slopes, *outputs
    kernels.launch("_control", rows, *tensors, rows, size, *strides, *test_rk_control.PID)
    for buffer, part in zip(outputs, expected):
        found = tensor_of(buffer, part.dtype, *part.shape)
        torch.testing.assert_close(found, part, rtol=1e-5 if state == "fp32" else 1e-12, atol=1e-12)
