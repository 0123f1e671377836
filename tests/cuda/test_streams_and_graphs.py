"""Every op on other streams, in graphs and with its gradients: on a card, and, so that the tests are sound before one
is at hand, on the CPU that pretends to be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pyflowk
from pyflowk import zoo
from pyflowk.ops import registry
from pyflowk.ops._backends import backends
from tests.ops.cases import ALL_CASES, CPU_ONLY

from .card import Call, Card, Pretended, calls


@pytest.fixture(params=["pretended", "cuda", "triton"])
def card(request: pytest.FixtureRequest) -> Iterator[Card]:
    """Each back end of the card in turn."""
    entry = backends.get(request.param)
    if request.param != "pretended":
        if entry is None:
            pytest.skip("this build has no CUDA kernels")
        if reason := entry.settled().unavailable:
            pytest.skip(reason)
        if entry.device != "cuda":
            pytest.skip("needs a card")
    with nullcontext() if entry is None else pyflowk.backend(request.param):
        yield Pretended() if entry is None else Card()


def every_call(card: Card, check: Callable[[Call], None]) -> None:
    """Check all ops, then say of each that failed how: on a card, time is dear."""
    failed = {}
    for call in calls(card.device):
        try:
            check(call)
        except Exception as error:
            failed[call.op] = f"{type(error).__name__}: {error}"
    assert failed == {}


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) or (torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))


def test_the_current_stream_is_used(card: Card) -> None:
    def check(call: Call) -> None:
        expected = call()
        late = [torch.zeros_like(t) for t in call.leaves]
        with card.side_stream():  # where the numbers come long after the call was made
            for empty, t in zip(late, call.leaves):
                empty.copy_(t)
            found = call(*late)
        card.wait()
        assert_same(found, expected)

    every_call(card, check)


def test_outputs_live_as_long_as_another_stream_uses_them(card: Card) -> None:
    def check(call: Call) -> None:
        expected, results = call(), call()
        copies = []
        with card.side_stream() as stream:
            for t in results:
                card.used_on(t, stream)
                copies.append(t.clone())
        sizes = [t.shape for t in results]
        del results, t
        garbage = [torch.full(size, 7.0, device=card.device) for size in sizes]  # lands where they were, if too early
        card.wait()
        assert_same(copies, expected)
        del garbage

    every_call(card, check)


def test_a_graph_captures_and_replays(card: Card) -> None:
    def check(call: Call) -> None:
        others, leaves = call.others(), [t.clone() for t in call.leaves]
        results, replay = card.captured(lambda: call(*leaves))
        for t, other in zip(leaves, others):
            t.copy_(other)
        replay()
        card.wait()
        assert_same(results, call(*others))

    every_call(card, check)


@pytest.mark.parametrize("shape, options", [((3,), {}), ((1, 4, 4), {"architecture": "image"})])
def test_a_graph_holds_all_steps_of_a_sample(card: Card, shape: tuple[int, ...], options: dict[str, str]) -> None:
    model = zoo.create("flow_matching", shape, width=8, depth=1, steps=4, **options).to(card.device).eval()
    z, other = (torch.full((5, *shape), number, device=card.device) for number in (0.5, -0.3))
    with torch.no_grad():
        expected = model.decode(other)
        (decoded,), decode = card.captured(lambda: [model.decode(z)])
        (drawn,), draw = card.captured(lambda: [model.sample(5)])
        z.copy_(other)
        decode()
        draw()
        card.wait()
        before = drawn.clone()
        draw()
        card.wait()
    torch.testing.assert_close(decoded, expected)
    assert drawn.isfinite().all() and not torch.equal(drawn, before)


def test_compiled_with_graphs(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mode="reduce-overhead"`: by the library op, in graphs, call after call on other numbers."""
    for op in registry().values():
        monkeypatch.setattr(op, "expand_below", 0)

    def check(call: Call) -> None:
        torch._dynamo.reset()
        compiled = Call(call.op, card.compiled(call.function), call.leaves)
        for leaves in (call.leaves, call.others(), call.leaves, call.others()):
            found = [t.clone() for t in compiled(*leaves)]
            torch.testing.assert_close(found, call(*leaves), equal_nan=True)

    every_call(card, check)


class _OneDevice(TorchDispatchMode):
    """Refuses tensors of two devices, as a kernel does; one number may lie anywhere."""

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        if "pyflowk" in str(func):
            devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            assert devices == {"meta"}, f"{func} of tensors on {devices}"
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_the_cases_are_of_one_device() -> None:
    """What the tests on a card call, with tensors that are on no processor either."""
    for case in ALL_CASES:
        if case.op not in CPU_ONLY:
            with _OneDevice():
                case.call(*(torch.empty(t.shape, dtype=t.dtype, device="meta") for t in case.inputs(3, torch.float32)))
