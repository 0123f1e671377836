"""The compiled module `_cuda` where there is no card, and what it refuses; on the test bench the same binding."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from simt import backend, build
from torch._subclasses import FakeTensorMode

import pyflowk
from pyflowk._native import Kernels, _cuda_error, covers
from pyflowk.ops import _backends
from pyflowk.ops._backends import Backend, backends, implementation, register_backend
from pyflowk.ops.affine_coupling import BOUNDS
from pyflowk.ops.masks import MASKS

CONFIG = (MASKS["half"], BOUNDS["tanh"], 2.0, False, False)
built = pytest.mark.skipif(importlib.util.find_spec("pyflowk._cuda") is None, reason="this build has no CUDA kernels")


@pytest.fixture(scope="module")
def simt() -> ModuleType:
    if reason := build.unavailable():
        pytest.skip(reason)
    return backend.load(backend.library("checker"), True)[0]


@built
def test_imports_without_a_driver_and_gives_one_clear_reason() -> None:
    code = "from pyflowk import _cuda; print(_cuda.device_error())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    if not torch.cuda.is_available():
        assert re.fullmatch(r"cudaError\w+: .+|no CUDA device is visible", done.stdout.strip()), done.stdout


@built
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_forcing_the_back_end_without_a_card_says_why() -> None:
    reason = r"torch .* was built without CUDA|cudaError|no CUDA"
    with pytest.raises(ValueError, match=f"'cuda' cannot run here: ({reason})"), pyflowk.backend("cuda"):
        pass


@built
def test_refuses_tensors_of_the_cpu() -> None:
    from pyflowk import _cuda

    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match="expected a CUDA tensor; got one on another device"):
        _cuda.affine_coupling(x, x, *CONFIG)
    with pytest.raises(ValueError, match="expected a CUDA tensor"):
        _cuda.affine_coupling_backward(x, x, x, torch.ones(2), *CONFIG)


@built
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_needs_no_cuda_library() -> None:
    from pyflowk import _cuda

    listing = subprocess.run(["readelf", "-d", _cuda.__file__], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*?)\]", listing)
    assert needed and all(re.match(r"(lib(stdc\+\+|gcc_s|c|m|dl|rt|pthread)|ld-linux)", name) for name in needed), (
        needed
    )


BAD: dict[str, tuple[type[Exception], str, Any]] = {
    "integers": (TypeError, "expected a float32, float64", lambda x: (x.int(), x)),
    "complex": (TypeError, "expected a float32, float64", lambda x: (x.to(torch.complex64), x)),
    "wide params": (TypeError, "params must have x's dtype", lambda x: (x, x.double())),
    "narrow params beside double": (TypeError, "params must have x's dtype", lambda x: (x.double(), x.half())),
    "mixed narrow types": (TypeError, "params must have x's dtype", lambda x: (x.half(), x.bfloat16())),
    "params of another shape": (ValueError, "params must be", lambda x: (x, x[:, :3])),
    "params of other rows": (ValueError, "params must be", lambda x: (x, x[:1])),
    "a vector": (ValueError, "x must be", lambda x: (x[0], x[0])),
    "no tensor": (TypeError, "expected a torch.Tensor", lambda x: (x, None)),
    "meta": (Exception, "meta|device|memory", lambda x: (x, x.to("meta"))),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_before_any_launch(simt: ModuleType, kind: str) -> None:
    error, text, make = BAD[kind]
    with pytest.raises(error, match=text):
        simt.affine_coupling(*make(torch.ones(2, 4)), *CONFIG)


def test_tensors_without_memory_are_refused(simt: ModuleType) -> None:
    with FakeTensorMode():
        fake = torch.ones(2, 4)
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        simt.affine_coupling(fake, fake, *CONFIG)


@pytest.mark.parametrize(
    "config", [(1, 2, 2.0), (8, 2, 2.0), (2, 4, 2.0), (2, -1, 2.0), (2, 2, 0.0), (2, 2, float("nan"))]
)
def test_bad_configuration_is_refused(simt: ModuleType, config: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"no such mask or bound|limit must be"):
        simt.affine_coupling(torch.ones(2, 4), torch.ones(2, 4), *config, False, False)


def test_bad_gradients_are_refused(simt: ModuleType) -> None:
    y, dladj = torch.ones(2, 4), torch.ones(2)
    for dy, share in ((y[:1], dladj), (y.double(), dladj), (y, dladj.double()), (y, dladj[:1]), (y, y)):
        with pytest.raises((TypeError, ValueError)):
            simt.affine_coupling_backward(y, y, dy, share, *CONFIG)


def test_strided_tensors_give_the_same_values(simt: ModuleType) -> None:
    x, params = torch.randn(8, 6), torch.randn(8, 6)
    expected = simt.affine_coupling(x, params, *CONFIG)
    for view in (lambda t: t.t().contiguous().t(), lambda t: torch.cat([t, t], 1)[:, :6], lambda t: t.flip(1).flip(1)):
        found = simt.affine_coupling(view(x), view(params), *CONFIG)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


# ---- the choice of a back end on a card ------------------------------------------------------------------------------


class Named:
    """Kernels that return the name of their back end."""

    def __init__(self, name: str) -> None:
        self.affine_coupling = lambda *args: (name,)


@pytest.fixture
def no_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is registered; afterwards the ops choose again among what was."""
    with monkeypatch.context() as patch:
        patch.setattr(_backends, "backends", {})
        yield
    _backends._notify()


@pytest.mark.usefixtures("no_backends")
def test_a_late_answer_decides_once_and_the_next_back_end_serves() -> None:
    asked = []

    def answering(name: str, answer: str) -> Any:
        return lambda: asked.append(name) or answer

    register_backend(Backend("first", "cuda", Named("first"), ask=answering("first", "no such card")))
    register_backend(Backend("second", "cuda", Named("second"), ask=answering("second", "")))
    assert asked == []
    assert implementation("affine_coupling", "cuda", lambda *args: ("formula",))() == ("second",)
    assert implementation("affine_coupling", "cuda", lambda *args: ("formula",))() == ("second",)
    assert asked == ["first", "second"]


def pretend(monkeypatch: pytest.MonkeyPatch, *cards: tuple[int, int]) -> None:
    """torch sees these compute capabilities."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: cards[i])


class Compiled:
    """A module for these architectures over a driver that says this."""

    def __init__(self, error: str = "", architectures: str = "80-real 90-real") -> None:
        self.architectures, self.device_error = architectures, lambda: error
        self.additive_coupling = self.affine_coupling = lambda *args: ("kernel",)


@pytest.mark.usefixtures("no_backends")
def test_a_driver_too_old_for_the_kernels_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0))
    kernels = Kernels(Compiled("cudaErrorInsufficientDriver: 12.4 is older than 13.0"))
    register_backend(Backend("cuda", "cuda", kernels, ask=lambda: _cuda_error(kernels)))
    with pytest.warns(
        RuntimeWarning, match=r"torch sees a card, but the CUDA kernels do not: .*12\.4 is older"
    ) as told:
        for _ in range(2):
            assert implementation("affine_coupling", "cuda", lambda *args: ("formula",))() == ("formula",)
    assert len(told) == 1
    pretend(monkeypatch)  # where torch sees none either, nobody expects kernels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "12.4" in _cuda_error(kernels)


def test_a_card_that_was_not_compiled_for_is_told_once_and_served_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0), (7, 5))
    kernels = Kernels(Compiled())
    with pytest.warns(RuntimeWarning, match=r"for architectures 80-real 90-real; cuda:1 has compute capability 7\.5"):
        assert _cuda_error(kernels) == ""  # the other one is
    from pyflowk.ops._router import all_ops

    monkeypatch.setattr(all_ops()["affine_coupling"], "reference", lambda *args: ("formula",))
    served = [kernels.affine_coupling(SimpleNamespace(get_device=lambda i=i: i)) for i in range(2)]
    assert served == [("kernel",), ("formula",)] and not hasattr(kernels, "no_such_op")
    pretend(monkeypatch, (7, 5))
    with pytest.warns(RuntimeWarning, match="serves there"):
        assert "cuda:0 has compute capability 7.5" in _cuda_error(kernels)
    pretend(monkeypatch, (9, 0), (8, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _cuda_error(Kernels(Compiled())) == ""


def test_the_order_on_a_card_is_cuda_triton_formula() -> None:
    names = [name for name in backends if name in ("cuda", "triton")]
    assert names in (["cuda", "triton"], ["triton"])


@pytest.mark.parametrize(
    "architectures, capability, answer",
    [
        ("75-real 80-real 90-real 120", (8, 9), True),
        ("75-real 80-real 90-real 120", (9, 0), True),
        ("75-real 80-real 90-real 120", (10, 0), False),
        ("75-real 80-real 90-real 120", (12, 1), True),
        ("75-real 80-real 90-real 120", (7, 0), False),
        ("86-real", (8, 0), False),
        ("80-virtual", (9, 0), True),
        ("90a-real", (9, 0), True),
        ("native", (7, 0), True),
    ],
)
def test_which_cards_an_architecture_list_covers(architectures: str, capability: tuple[int, int], answer: bool) -> None:
    assert covers(architectures, capability) is answer
