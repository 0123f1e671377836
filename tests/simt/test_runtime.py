"""Every op on a pretended machine of two cards: devices, streams, contexts, waits, and graphs that are captured."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from simt import backend, build
from simt.bench import Bench
from simt.recorder import pretended, seen_on_a_card

import pyflowk
from pyflowk import ops
from pyflowk.ops import _router
from pyflowk.ops._backends import backends
from pyflowk.ops.kept import Kept
from tests.ops import hostile
from tests.ops.cases import SMALL_CASES, OpCase, skip_without_kernel
from tests.ops.test_kernels import cotangents_of, values_and_gradients

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

#: card of the tensors, current card, whether both have a context
PLACES = [(0, 0, False), (1, 1, False), (1, 0, False), (1, 0, True), (0, 1, True)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The kernels of tests/simt/test_ops.py, not checked once more."""
    bench = backend.register("checker")
    with bench.options(check=False):
        yield bench


# ---- every kernel, forward and backward ------------------------------------------------------------------------------

recorded = cache(hostile.recorded)
NAMES = sorted(_router._ops)


def several(name: str, most: int = 12) -> list[tuple[Any, ...]]:
    """Arguments of an op, spread over all that the cases bring about."""
    calls = recorded()[name]
    return calls[:: max(1, len(calls) // most)]


@pytest.mark.parametrize("name", NAMES)
def test_an_op_works_where_its_tensors_are_and_leaves_no_trace(bench: Bench, name: str) -> None:
    if backends["simt"].kernel(name) is None:
        pytest.skip(f"{name} has no CUDA kernel")
    launches = 0
    for args in several(name):
        for card, current, both in PLACES:
            with pyflowk.backend("simt"), pretended(bench, card, current, both=both) as machine:
                _router._ops[name].run(args)
                assert machine.faults() == [], (card, current, both)
                launches += sum(event.call == "launch" for event in machine.events())
    assert launches >= len(PLACES)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_can_hold_an_op(bench: Bench, name: str) -> None:
    if backends["simt"].kernel(name) is None:
        pytest.skip(f"{name} has no CUDA kernel")
    for args in several(name, 3):
        with pyflowk.backend("simt"), pretended(bench, capturing=True) as machine:
            _router._ops[name].run(args)
            assert machine.faults() == []


# ---- what stands around the kernels ----------------------------------------------------------------------------------

POINTS = torch.arange(12.0).reshape(3, 2, 2)
#: ops without a derivative, which no case calls
CALLS: dict[str, Callable[[], object]] = {
    "assignment": lambda: ops.assignment(torch.rand(3, 5, 5)),
    "jump_bins": lambda: ops.jump_bins(POINTS, POINTS, torch.zeros(3), low=-1, high=1, bins=5),
    "nearest": lambda: ops.nearest(POINTS[0], POINTS[1]),
    "sinkhorn": lambda: ops.sinkhorn(POINTS, POINTS + 1, 1.0, iterations=130),
    "sinkhorn_draw": lambda: ops.sinkhorn_draw(POINTS, None, torch.zeros(3, 2), 1.0),
    "draw_probes": lambda: ops.draw_probes(torch.zeros(3, 5), 2, "gaussian").directions(torch.zeros(3, 5)),
    "lu_factor_slogdet": lambda: ops.lu_factor_slogdet(torch.eye(3) + 0.1),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_read_back_while_a_graph_is_captured(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("pyflowk.ops.sinkhorn"), "_AT_ONCE", {})  # several calls, as on a card
    with pyflowk.backend("simt"), pretended(bench, capturing=True), seen_on_a_card(capturing=True):
        CALLS[name]()


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_nothing_is_read_back_around_an_op(bench: Bench, case: OpCase, request: pytest.FixtureRequest) -> None:
    skip_without_kernel(request)
    inputs = case.inputs(3, torch.float32)
    cotangents = cotangents_of(case, inputs)
    with pyflowk.backend("simt"), pretended(bench, capturing=True), seen_on_a_card(capturing=True):
        values_and_gradients(case, inputs, cotangents)


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_remembered_while_a_graph_is_captured(frozen: bool) -> None:
    """What a replay reads must not be freed or made again behind it; what was made there has no values yet."""
    kept, weight = Kept(), torch.ones(3)
    if frozen:
        kept.freeze()
    before = kept.get([weight], weight.exp)
    with seen_on_a_card(capturing=True):
        inside = [kept.get([weight], weight.exp) for _ in range(2)]
    assert kept.get([weight], weight.exp) is before
    assert len({id(made) for made in (before, *inside)}) == 3


# ---- the recorder itself ---------------------------------------------------------------------------------------------

PLANTED = {
    "on_its_stream": None,
    "on_the_legacy_stream": "launch on another stream than torch's",
    "clears_on_the_legacy_stream": "memset on another stream than torch's",
    "waits": "the host waits for a card",
    "leaves_another_card_current": "card 1 is current, and 0 was",
    "wakes_another_card": "card 1, which nobody uses, has a context",
    "forgets_to_change_the_card": "launch on card 1 for tensors on card 0",
}
REFUSED_BY_A_CAPTURE = {"on_the_legacy_stream", "clears_on_the_legacy_stream", "waits"}


@pytest.fixture(scope="module")
def faulty() -> Bench:
    return Bench(build.build([Path(__file__).parent / "planted" / "runtime.cu"]))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(faulty: Bench, name: str) -> None:
    out, stream = faulty.buffer("y", 32), ctypes.c_void_p(faulty.library.simt_stream(0))
    launcher = getattr(faulty.library, name)
    with pretended(faulty) as machine:
        launcher(ctypes.c_void_p(out.address), stream)
        found = machine.faults()
    assert found == [] if PLANTED[name] is None else PLANTED[name] in found
    with pretended(faulty, capturing=True):
        refused = launcher(ctypes.c_void_p(out.address), stream)
    assert (refused != 0) == (name in REFUSED_BY_A_CAPTURE or name == "forgets_to_change_the_card")


@pytest.mark.parametrize("read", [torch.Tensor.item, bool, float, torch.Tensor.tolist, lambda t: torch.tensor(0.5)])
def test_a_read_is_found(read: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="while a graph is captured"), seen_on_a_card(capturing=True):
        read(torch.ones(()))
