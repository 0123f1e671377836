"""What only a card can show: the kernels on it, streams, graphs, several devices. Skipped without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk import selfcheck
from pyflowk.ops import affine_coupling
from pyflowk.ops._backends import backends
from tests.ops.cases import ALL_CASES, DTYPES
from tests.ops.test_kernels import assert_as_good_as_torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")


@pytest.fixture(params=["cuda", "triton"])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each back end of the card in turn."""
    entry = backends.get(request.param)
    if entry is None:
        pytest.skip("this build has no CUDA kernels")
    if reason := entry.settled().unavailable:
        pytest.skip(reason)
    with pyflowk.backend(request.param):
        yield request.param


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("state, params", DTYPES, ids=str)
def test_parity(card: str, state: torch.dtype, params: torch.dtype) -> None:
    for case in ALL_CASES:  # one test for all: without a card each would be a skip of its own
        if case.takes(state, params):
            assert_as_good_as_torch(case, tuple(t.cuda() for t in case.inputs(9, state, params)))


def test_selfcheck_on_the_card() -> None:
    report = selfcheck.run(["cuda"], megabytes=8)
    assert report.ok, report.text()


def test_large_and_very_long(card: str) -> None:
    for shape in ((4096, 784), (2, 3_000_001), (3, 12, 256, 256)):
        x, params = noise(*shape), noise(shape[0], 2 * (shape[1] - shape[1] // 2), *shape[2:])
        y, ladj = affine_coupling(x, params)
        with pyflowk.backend("reference"):
            exact = affine_coupling(x.double(), params.double())
        torch.testing.assert_close(y.double(), exact[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ladj.double(), exact[1], rtol=1e-5, atol=1e-2)


def test_the_current_stream_is_used(card: str) -> None:
    x, params = noise(4096, 4096), noise(4096, 4096)
    expected = affine_coupling(x, params)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)  # the copy below ends long after the call was made
        late.copy_(x)
        y, ladj = affine_coupling(late, params)
    stream.synchronize()
    assert torch.equal(y, expected[0]) and torch.equal(ladj, expected[1])


def test_a_graph_captures_and_replays(card: str) -> None:
    x, params, g = noise(64, 20000), noise(64, 20000), noise(64, 20000)
    for _ in range(2):  # what is compiled late is compiled now
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(affine_coupling(leaf, params)[0], leaf, g)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        leaf = x.detach().requires_grad_()
        y, ladj = affine_coupling(leaf, params)
        (dx,) = torch.autograd.grad(y, leaf, g)
    x.mul_(-0.5)
    graph.replay()
    torch.cuda.synchronize()
    leaf = x.clone().requires_grad_()
    expected, expected_ladj = affine_coupling(leaf, params)
    assert torch.equal(y, expected) and torch.equal(ladj, expected_ladj)
    assert torch.equal(dx, torch.autograd.grad(expected, leaf, g)[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
def test_the_tensor_s_device_is_used_and_the_current_one_kept(card: str) -> None:
    x, params = noise(8, 6).to("cuda:1"), noise(8, 6).to("cuda:1")
    y, _ = affine_coupling(x, params)
    assert y.device == x.device and torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="one device"):
        affine_coupling(x, params.to("cuda:0"))


def test_mixed_devices_are_refused(card: str) -> None:
    x = noise(2, 4)
    with pytest.raises(ValueError, match=r"CUDA tensor|one device"):
        affine_coupling(x, x.cpu())
    with pytest.raises(ValueError, match="takes tensors on cuda"):
        affine_coupling(x.cpu(), x.cpu())


def test_any_alignment(card: str) -> None:
    x, params = noise(5, 64), noise(5, 64)
    expected = affine_coupling(x, params)
    memory = torch.zeros(5 * 64 + 1, device="cuda")
    view = memory[1:].view(5, 64).copy_(x)
    found = affine_coupling(view, params)
    torch.testing.assert_close(found, expected)
