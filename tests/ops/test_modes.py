"""The private names of torch that the package asks are there and answer as they must."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from pyflowk.ops import modes


def test_private_names_of_torch_are_there() -> None:
    assert modes.functional() is False
    assert vmap(lambda x: x * float(modes.functional()))(torch.ones(2)).tolist() == [1, 1]
    assert not modes.wrapped(torch.ones(1)) and grad(lambda x: x * float(modes.wrapped(x)))(torch.ones(())) == 1
    five = modes.while_loop(lambda i: i < 5, lambda i: (i + 1,), (torch.zeros((), dtype=torch.long),))
    assert five[0].item() == 5
    assert modes.unwrap(five[0]) is five[0]
    ask = lambda x: x * float(modes.mapped(x))  # noqa: E731
    assert not modes.mapped(five[0]) and grad(ask)(torch.ones(())) == 0 and vmap(grad(ask))(torch.ones(2)).all()
    assert modes.modes_on_stack() == 0
    with torch._subclasses.FakeTensorMode():
        assert modes.modes_on_stack() > 0
    assert forward_ad._current_level == -1
    with forward_ad.dual_level():
        assert forward_ad._current_level == 0
    assert jvp(lambda x: x + forward_ad._current_level, (torch.ones(1),), (torch.ones(1),))[0].item() >= 1
    assert modes.tracing() is None
    made = modes.empty_on_cpu((2, 3), (3, 1), torch.float64)
    assert made.shape == (2, 3) and made.dtype == torch.float64 and made.untyped_storage().resizable()
    assert callable(modes.empty_on_card)
    assert not modes.functionalizing()
    assert torch.func.functionalize(lambda x: x * float(modes.functionalizing()))(torch.ones(1)).item() == 1


def test_a_call_with_only_a_kernel_before_it_is_known() -> None:
    x = torch.ones(2)
    negative = torch.complex(x, -x).conj().imag
    keys = torch._C._dispatch_keys
    assert modes.unwatched(keys(x)) and modes.unwatched(keys(x.requires_grad_()))
    assert not modes.unwatched(keys(negative))
    with torch._subclasses.FakeTensorMode() as mode:
        assert not modes.unwatched(keys(mode.from_tensor(x)))
    assert modes.of_no_device(keys(x)).has(torch._C.DispatchKey.AutogradOther)
    assert not modes.of_no_device(keys(x)).has(torch._C.DispatchKey.AutogradCPU)


def test_autocast_is_told_on_every_device() -> None:
    x, none = torch.ones(1), torch.ones(1, device="meta")
    assert not modes.autocasting(x) and not modes.autocasting(none)
    with torch.autocast("cpu", torch.bfloat16):
        assert modes.autocasting(x) and not modes.autocasting(none)
