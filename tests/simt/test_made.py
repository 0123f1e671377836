"""The inverse of MADE where it differs from other ops on a card: its gradient is products around one kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from simt import backend, build
from simt.bench import Bench

import pyflowk
from pyflowk.ops.made_dense import dense_op, packed_op
from tests.ops import test_kernels
from tests.ops.cases import OpCase, made

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

SMALL = [case for case in made.SMALL if case.op == "made_inverse"]
KINDS = [case for case in made.ALL if case.op == "made_inverse"][4:9]  # deep, residual, wide, narrow, long


@pytest.fixture(scope="module")
def bench() -> Bench:
    return backend.register("checker")


@pytest.fixture(autouse=True)
def on_the_bench(bench: Bench) -> Iterator[None]:
    with pyflowk.backend("simt"):
        yield
    assert bench.reports() == []


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_derivatives_of_both_orders(case: OpCase) -> None:
    test_kernels.test_first_and_second_derivatives(case)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_a_room_in_global_memory_gives_the_same_bits(bench: Bench, case: OpCase) -> None:
    """Where shared memory is too small for a tile."""
    inputs = case.inputs(35, torch.float32)
    cotangents = test_kernels.cotangents_of(case, inputs)
    expected = test_kernels.values_and_gradients(case, inputs, cotangents)
    with bench.options(shared_limit=1000, order="shuffled", seed=1, preempt=3):
        found = test_kernels.values_and_gradients(case, inputs, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("features, hidden, params", [(1, (), 2), (2, (40,), 1), (9, (12, 15), 11), (33, (20,) * 5, 2)])
def test_packed_and_dense_weights_are_the_formula_s(
    features: int, hidden: tuple[int, ...], params: int, dtype: torch.dtype
) -> None:
    """Both ways, padding included, bit for bit."""
    layout = made.layout(features, hidden, False, params)
    config = layout.plan, features, hidden, params
    weights = torch.randn(len(layout.source), dtype=dtype)
    (dense,) = dense_op((weights, *config))
    (packed,) = packed_op((dense + 1, weights, *config))
    with pyflowk.backend("reference"):
        assert torch.equal(dense, dense_op((weights, *config))[0])
        assert torch.equal(packed, packed_op((dense + 1, weights, *config))[0])


def arrays(bench: Bench) -> set[str]:
    return {row.array.split(" ")[0] for row in bench.traffic()}


def test_what_runs_here_and_what_is_torch_s(bench: Bench) -> None:
    """The forward only has its weights unpacked here, and their gradient packed."""
    forward, inverse = (next(case for case in made.FEW if case.op == op) for op in ("made_forward", "made_inverse"))
    with bench.options(count=True):
        inputs = [t.requires_grad_() for t in forward.inputs(3, torch.float32)]
        torch.autograd.grad(sum(o.sum() for o in forward.call(*inputs)), inputs)
        assert arrays(bench) == {"input", "output", "indices"}
        inputs = [t.requires_grad_() for t in inverse.inputs(3, torch.float32)]
        outputs = inverse.call(*inputs)
        assert "dynamic" in arrays(bench)
        torch.autograd.grad(sum(o.sum() for o in outputs), inputs)
        assert "dynamic" in arrays(bench)
