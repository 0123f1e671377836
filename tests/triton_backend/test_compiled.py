"""The Triton kernels compiled ahead of time for cards that are not here: they compile, and move 16 bytes at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from pyflowk.ops._triton import affine_coupling as kernels  # noqa: E402
from pyflowk.ops._triton import hutchinson, random_numbers, rk_step  # noqa: E402
from pyflowk.ops._triton import rq_spline as splines  # noqa: E402
from pyflowk.ops.affine_coupling import BOUNDS  # noqa: E402
from pyflowk.ops.masks import mask_code  # noqa: E402
from pyflowk.ops.rq_spline_formula import TAILS, free_slopes  # noqa: E402

TARGETS = [
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
]
POINTERS = {
    "_forward": {"x": "state", "params": "param", "y": "state", "sums": "real"},
    "_backward": {"y": "state", "params": "param", "dy": "state", "dladj": "real", "dx": "state", "dparams": "param"},
}


def binary(
    name: str,
    target: Any,
    state: str,
    param: str,
    mask: str,
    bound: str,
    inverse: bool,
    interleaved: bool = False,
    size: int = 1024,
) -> Any:
    """What Triton makes for an event whose sizes are multiples of 16, specialised as the launcher would."""
    kernel = getattr(kernels, name)
    real = "fp64" if state == "fp64" else "fp32"
    types = {"state": state, "param": param, "real": real}
    pointers = {argument: "*" + types[kind] for argument, kind in POINTERS[name].items()}
    _, masks = kernels.layout(torch.Size((4, 4, 16, 16)), mask_code(mask, False), BOUNDS[bound], interleaved)
    constants = dict(MASK=masks, LIMIT=2.0, INVERSE=inverse, BOUND=BOUNDS[bound], REAL=getattr(tl, "float" + real[2:]))
    constants |= kernels.tiling(size) | ({"INPLACE": False} if name == "_forward" else {})
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    free = {"rows", "segments", "begin", "end", "dladj_stride"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants and n not in free}
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={(names.index(n),): v for n, v in constants.items()}, attrs=aligned
    )
    return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})


def compiled(name: str, target: Any, *case: Any) -> str:
    """The assembly of `binary`."""
    assembly = binary(name, target, *case).asm
    return assembly["ptx"] if target.backend == "cuda" else assembly["amdgcn"]


WEIGHTS = (0.25, -0.5, 1.5)
TIMES = (0.0, 0.3, 1.0)


def rk_tile(name: str, size: int) -> dict[str, int]:
    """Rows and columns of a tile of that kernel."""
    return rk_step.tiling(size, rk_step.CLOCKED if name == "_control" else rk_step.TILE)


def rk_binary(name: str, target: Any, state: str, size: int = 1024) -> Any:
    """The same for a kernel of rk_step with three slopes."""
    kernel = getattr(rk_step, name)
    real = "fp64" if state == "fp64" else "fp32"
    constants = {"WEIGHTS": WEIGHTS, "REAL": getattr(tl, "float" + real[2:]), **rk_tile(name, size)}
    constants |= {"C": TIMES} if name == "_control" else {}
    special = dict.fromkeys(("h", "dh", "norm", "times"), "*" + real) | {"clock": "*fp64", "after": "*fp64"}
    special |= {"rows": "i32", "size": "i32"}
    signature: dict[str, Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    for i, n in enumerate(kernel.arg_names):
        number = kernel.params[i].annotation_type
        kind = number or special.get(n, "i32" if "stride" in n else "*" + state)
        grouped = n in ("ks", "dks", "strides")
        signature[n] = "constexpr" if n in constants else (kind,) * len(WEIGHTS) if grouped else kind
        if n not in constants and not number and n not in ("rows", "h_stride", "clock_stride"):
            places = [(i, j) for j in range(len(WEIGHTS))] if grouped else [(i,)]
            aligned |= {place: [["tt.divisibility", 16]] for place in places}
    index = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=index, attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})


COUNTERS = [(hutchinson._estimate, 2), (hutchinson._backward, 2), (random_numbers._draw, 3)]
"""What draws by counter, and the kinds of numbers that each knows."""


@pytest.mark.parametrize("kernel, kind", [(kernel, kind) for kernel, kinds in COUNTERS for kind in range(kinds)])
def test_random_numbers_compile(kernel: Any, kind: int) -> None:
    constants = {"KIND": kind, "REAL": tl.float32, **rk_step.tiling(1024)}
    pointers = {"images", "divergence", "square", "ddivergence", "dsquare", "out"}
    kinds = {"keys": "*i64", **dict.fromkeys(constants, "constexpr"), **dict.fromkeys(pointers, "*fp32")}
    signature = {n: kinds.get(n, "i32") for n in kernel.arg_names}
    index = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
    options = {"num_warps": 4, "enable_fp_fusion": True}
    for target in TARGETS[1::2]:
        source = ASTSource(fn=kernel, signature=signature, constexprs=index)
        binary = triton.compile(source, target=target, options=options)
        assert "st.global" in binary.asm["ptx"] if target.backend == "cuda" else "global_store" in binary.asm["amdgcn"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: str(t.arch))
@pytest.mark.parametrize("name, loads", [("_combine", 4), ("_combine_backward", 4), ("_error", 5), ("_control", 9)])
def test_runge_kutta_steps_move_vectors(name: str, loads: int, target: Any) -> None:
    assembly = rk_binary(name, target, "fp32").asm
    if target.backend == "cuda":
        text = assembly["ptx"]
        assert re.findall(r"ld\.global\.(\S+)", text).count("v4.b32") >= loads and ".local" not in text
    else:
        assert len(re.findall("global_load_dwordx4", assembly["amdgcn"])) >= loads
        assert "scratch_" not in assembly["amdgcn"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: str(t.arch))
@pytest.mark.parametrize("name", POINTERS)
@pytest.mark.parametrize("state", ["fp32", "bf16"])
def test_every_target_moves_vectors(name: str, state: str, target: Any) -> None:
    text = compiled(name, target, state, state, "half", "tanh", False)
    if target.backend == "cuda":
        loads = re.findall(r"ld\.global\.(\S+)", text)
        assert loads and set(loads) <= {"v4.b32", "b32"}  # dladj and rows of the sums are single words
        assert loads.count("v4.b32") >= (3 if name == "_forward" else 4)
        assert ".local" not in text
    else:
        wide = {"fp32": "global_load_dwordx4", "bf16": r"global_load_dwordx[24]"}[state]
        assert len(re.findall(wide, text)) >= (3 if name == "_forward" else 4)
        assert "scratch_" not in text


@pytest.mark.parametrize("name", POINTERS)
@pytest.mark.parametrize(
    "state, param, mask, bound, inverse, interleaved",
    [
        ("fp64", "fp64", "half", "tanh", True, False),
        ("fp16", "fp16", "alternating", "sigmoid", False, True),
        ("fp32", "bf16", "checkerboard", "sigmoid", True, False),
        ("fp32", "fp16", "all", "none", False, True),
    ],
)
def test_other_types_and_masks_compile(
    name: str, state: str, param: str, mask: str, bound: str, inverse: bool, interleaved: bool
) -> None:
    assert "st.global" in compiled(name, TARGETS[1], state, param, mask, bound, inverse, interleaved)


# ---- rq_spline -----------------------------------------------------------------------------------------------------
SPLINE_POINTERS = {
    "_forward": {"x": "state", "params": "param", "y": "state", "sums": "real"},
    "_backward": {"u": "state", "params": "param", "dy": "state", "dladj": "real", "dx": "state", "dparams": "param"},
}


def spline_binary(
    name: str, target: Any, state: str, param: str, mask: str, tails: str, inverse: bool, interleaved: bool,
    softclip: float, bins: int,
) -> Any:  # fmt: skip
    """What Triton makes of the spline's kernels for events (4, 16, 16)."""
    kernel = getattr(splines, name)
    real = "fp64" if state == "fp64" else "fp32"
    types = {"state": state, "param": param, "real": real}
    pointers = {argument: "*" + types[kind] for argument, kind in SPLINE_POINTERS[name].items()}
    free = free_slopes(bins, TAILS[tails])
    _, masks = splines._event(torch.Size((4, 4, 16, 16)), mask_code(mask, False), interleaved, 2 * bins + free)
    constants = dict(MASK=masks, INVERSE=inverse, REAL=getattr(tl, "float" + real[2:]))
    constants |= splines._constants(bins, TAILS[tails], -3.0, 3.0, 1e-3, 1e-3, 1e-3, softclip)
    constants |= splines._tiling(1024, 2 * bins + free) | ({"FREE": free} if name == "_backward" else {})
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs={(names.index(n),): v for n, v in constants.items()})
    return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})


@pytest.mark.parametrize("name", SPLINE_POINTERS)
@pytest.mark.parametrize(
    "target, state, param, mask, tails, inverse, interleaved, softclip",
    [
        (TARGETS[0], "fp32", "fp32", "half", "linear", False, False, 0.0),
        (TARGETS[2], "fp64", "fp64", "all", "bounded", True, False, 0.0),
        (TARGETS[3], "fp32", "bf16", "checkerboard", "circular", True, True, 6.9),
    ],
    ids=lambda v: str(getattr(v, "arch", v)),
)
def test_splines_compile_without_local_memory(
    name: str, target: Any, state: str, param: str, mask: str, tails: str, inverse: bool, interleaved: bool,
    softclip: float,
) -> None:  # fmt: skip
    assembly = spline_binary(name, target, state, param, mask, tails, inverse, interleaved, softclip, 8).asm
    if target.backend == "cuda":
        assert "st.global" in assembly["ptx"] and ".local" not in assembly["ptx"]
    else:
        assert "global_store" in assembly["amdgcn"] and "scratch_" not in assembly["amdgcn"]
