"""Every way a call can come: autograd of any order, functorch, forward AD, compile, export, modes, subclasses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import pyflowk
from pyflowk.ops import _router
from tests.ops.cases import FEW_CASES, SMALL_CASES, OpCase, tensors_of


def formula(case: OpCase, *tensors: Tensor) -> tuple[Tensor, ...]:
    with pyflowk.backend("reference"):
        return case.call(*tensors)


def total(outputs: tuple[Tensor, ...]) -> Tensor:
    return sum((o.double().sin() * (i + 1)).sum() for i, o in enumerate(outputs))  # type: ignore[return-value]


def plain(case: OpCase, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The formula itself, with no router around it: what every route must equal."""
    recorded: list[tuple[Tensor, ...]] = []
    route = _router.FusedOp.__call__
    try:
        _router.FusedOp.__call__ = lambda self, args, *_, **__: self.formula(*args)  # type: ignore[method-assign]
        recorded.append(case.call(*tensors))
    finally:
        _router.FusedOp.__call__ = route  # type: ignore[method-assign]
    return recorded[0]


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_jvp_and_vjp(case: OpCase) -> None:
    inputs = case.inputs(3)
    tangents = tuple(torch.cos(t) for t in inputs)
    torch.testing.assert_close(jvp(case.call, inputs, tangents), jvp(lambda *t: plain(case, *t), inputs, tangents))
    outputs, pull = vjp(case.call, *inputs)
    _, expected = vjp(lambda *t: plain(case, *t), *inputs)
    cotangents = tuple(torch.cos(o) for o in outputs)
    torch.testing.assert_close(pull(cotangents), expected(cotangents))
    with torch.no_grad():
        torch.testing.assert_close(vjp(case.call, *inputs)[1](cotangents), expected(cotangents))


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_second_derivatives_every_way(case: OpCase) -> None:
    inputs = case.inputs(2)
    if not all(t.numel() for t in inputs):
        return
    both = tuple(range(len(inputs)))
    value = lambda *t: total(case.call(*t))  # noqa: E731
    truth = hessian(lambda *t: total(plain(case, *t)), argnums=both)(*inputs)
    for outer, inner in [(jacfwd, jacrev), (jacrev, jacfwd), (jacrev, jacrev), (jacfwd, jacfwd)]:
        torch.testing.assert_close(outer(inner(value, argnums=both), argnums=both)(*inputs), truth)


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_third_derivative(case: OpCase) -> None:
    *others, params = case.inputs(1)

    def third(call: object) -> Tensor:
        p = params.detach().requires_grad_()
        derivative = total(call(*others, p))  # type: ignore[operator]
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative, p, create_graph=True)
            derivative = derivative.sum()
        return derivative

    torch.testing.assert_close(third(case.call), third(lambda *t: plain(case, *t)))


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_forward_ad_of_a_graph(case: OpCase) -> None:
    inputs = tensors_of(case, 2)

    def mixed(call: object) -> tuple[Tensor, ...]:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, torch.cos(t.detach())) for t in inputs]
            tangents = [forward_ad.unpack_dual(o).tangent for o in call(*duals)]  # type: ignore[operator]
            value = sum((t.sin()).sum() for t in tangents if t is not None)
        if not isinstance(value, Tensor) or not value.requires_grad:
            return ()
        return torch.autograd.grad(value, inputs, allow_unused=True)

    torch.testing.assert_close(mixed(case.call), mixed(lambda *t: plain(case, *t)))


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_vmap(case: OpCase) -> None:
    """Over the first or another dimension, with what is shared mapped or not; nested; and per-sample gradients."""
    stacks = tuple(torch.stack([t, t + 1, t - 1], 0) for t in case.inputs(4))
    everything = tuple(range(len(stacks)))

    def loop(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.stack, zip(*(case.call(*slices) for slices in zip(*tensors)))))

    expected = loop(*stacks)
    torch.testing.assert_close(vmap(case.call)(*stacks), expected)
    moved = vmap(case.call, in_dims=tuple(i % t.dim() for i, t in enumerate(stacks, 1)))
    torch.testing.assert_close(moved(*(t.movedim(0, i % t.dim()) for i, t in enumerate(stacks, 1))), expected)
    for fixed in everything if len(everything) > 1 else ():
        dims = tuple(None if i == fixed else 0 for i in everything)
        some = vmap(case.call, in_dims=dims)(*(t[0] if i == fixed else t for i, t in enumerate(stacks)))
        repeated = (t[:1].expand_as(t) if i == fixed else t for i, t in enumerate(stacks))
        torch.testing.assert_close(some, loop(*repeated))
    twice = vmap(vmap(case.call))(*(torch.stack([t, t.cos()]) for t in stacks))
    torch.testing.assert_close(tuple(o[1] for o in twice), loop(*(t.cos() for t in stacks)))
    unmapped = tuple(None if i in case.shared else 0 for i in everything)
    rows = tuple(t[0] if i in case.shared else t for i, t in enumerate(stacks))
    for dims, tensors in ((0, stacks), (unmapped, rows)):
        gradients = vmap(grad(lambda *t: total(case.call(*t)), argnums=everything), in_dims=dims)(*tensors)
        truth = vmap(grad(lambda *t: total(plain(case, *t)), argnums=everything), in_dims=dims)(*tensors)
        torch.testing.assert_close(gradients, truth)


#: one of each op
COUPLING = next(case for case in FEW_CASES if case.op == "affine_coupling")
FIRST_CASES = list({case.op: case for case in reversed(FEW_CASES)}.values())


@pytest.mark.parametrize(
    "case, threshold",
    [
        *(pytest.param(case, 0, id=f"op-{case}") for case in FEW_CASES),
        # the formulas of others are traced with the transforms (tests/transforms)
        *(pytest.param(case, 10**9, id=f"formula-{case}") for case in FIRST_CASES),
    ],
)
def test_compile_full_graph(case: OpCase, threshold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for op in _router.registry().values():
        if op.expand_below:
            monkeypatch.setattr(op, "expand_below", threshold)
    torch._dynamo.reset()
    inputs = tensors_of(case, 3, torch.float32)
    compiled = torch.compile(lambda *t: total(case.call(*t)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(total(case.call(*inputs)), inputs)
    )
    if not case.inplace:
        return
    with torch.no_grad():
        x, *others = case.inputs(3, torch.float32)
        overwrite = torch.compile(lambda *t: case.call(*t, inplace=True), fullgraph=True, backend="aot_eager")
        rest = overwrite(x, *others)[1:]
        torch.testing.assert_close((x, *rest), case.call(*case.inputs(3, torch.float32)))


def test_inductor_with_dynamic_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    case = COUPLING
    for op in _router.registry().values():  # the last rows are the op, the others the formula
        monkeypatch.setattr(op, "expand_below", 1 << 14)
    compiled = torch.compile(lambda *t: total(case.call(*t)), fullgraph=True, dynamic=True)
    for rows in (3, 5, 4000):
        inputs = tensors_of(case, rows, torch.float64)
        value = compiled(*inputs)
        expected = total(case.call(*inputs))
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs))


def test_compiled_jacobian() -> None:
    case = COUPLING
    x, params = case.inputs(2)
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: jacrev(lambda t: case.call(t, b)[0])(a), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, params), jacrev(lambda t: case.call(t, params)[0])(x))


def test_export(monkeypatch: pytest.MonkeyPatch) -> None:
    case = COUPLING
    monkeypatch.setattr(_router.registry()[case.op], "expand_below", 0)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
            return case.call(x, params)

    inputs = case.inputs(8, torch.float32)
    program = torch.export.export(Module(), inputs)
    assert "pyflowk.affine_coupling" in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), case.call(*inputs))


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_opcheck(case: OpCase) -> None:
    op = _router.registry()[case.op]
    calls: list[tuple[object, ...]] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function.namespace == "pyflowk":
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    with Spy():
        outputs = case.call(*tensors_of(case, 3, torch.float32))
        torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    assert [f.name().split("::")[1] for f, _ in calls] == [op.name, op.backward.name]  # type: ignore[union-attr]
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if case in FIRST_CASES:  # what costs; test_compile_full_graph takes every case
        checks.append("test_aot_dispatch_dynamic")
    for function, args in calls:
        leaves = [
            a.detach().clone().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a for a in args
        ]
        torch.library.opcheck(function, leaves, test_utils=checks)


def test_fake_functional_and_meta_tensors_reach_the_op() -> None:
    x, params = COUPLING.inputs(3, torch.float32)
    with torch._subclasses.FakeTensorMode() as mode:
        y, ladj = COUPLING.call(mode.from_tensor(x), mode.from_tensor(params))
        assert y.shape == x.shape and ladj.shape == (3,)
    y, ladj = COUPLING.call(x.to("meta"), params.to("meta"))
    assert y.device.type == "meta" and ladj.dtype == torch.float32
    torch.testing.assert_close(torch.func.functionalize(COUPLING.call)(x, params), COUPLING.call(x, params))


def test_negative_views_subclasses_and_parameters() -> None:
    case = COUPLING
    x, params = case.inputs(3, torch.float32)
    negative = torch.complex(x, -x).conj().imag  # a lazily negated view of x
    assert negative.is_neg()
    torch.testing.assert_close(case.call(negative, params), case.call(x, params))

    class Named(Tensor):
        pass

    torch.testing.assert_close(case.call(x.as_subclass(Named), params)[0].as_subclass(Tensor), case.call(x, params)[0])
    torch.testing.assert_close(case.call(torch.nn.Parameter(x), params), case.call(x, params))
    with torch.inference_mode():
        torch.testing.assert_close(case.call(x.clone(), params.clone()), case.call(x, params))


def test_autocast_mixes_a_narrow_network_with_a_float32_state() -> None:
    x, net = torch.randn(4, 6), torch.nn.Linear(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        params = net(x[:, :3])
        assert params.dtype == torch.bfloat16
        y, ladj = pyflowk.ops.affine_coupling(x, params)
    assert y.dtype == ladj.dtype == torch.float32
    (y.sum() + ladj.sum()).backward()
    assert net.weight.grad.dtype == torch.float32  # type: ignore[union-attr]


def test_module_under_functional_call() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return pyflowk.ops.affine_coupling(x, self.net(x[:, :3]))[0]

    layer, x = Layer().double(), torch.randn(5, 6, dtype=torch.float64)
    weights = dict(layer.named_parameters())
    value = lambda w, row: functional_call(layer, w, row[None]).sin().sum()  # noqa: E731
    per_sample = vmap(grad(value), in_dims=(None, 0))(weights, x)
    layer(x).sin().sum().backward()
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), weight.grad)


BAD_CALLS = [
    (lambda x, p: (x, p[:, :3]), "params must be"),
    (lambda x, p: (x[:, :4], p), "params must be"),
    (lambda x, p: (x, p[:2]), "params must be"),
    (lambda x, p: (x[0], p[0]), "x must be"),
    (lambda x, p: (x.double(), p), "dtype|float64"),
    (lambda x, p: (x.int(), p), "float32"),
    (lambda x, p: (x.to("meta"), p), "one device|meta"),
    (lambda x, p: (x.numpy(), p), "Tensor"),
    (lambda x, p: (x, None), "Tensor"),
]


@pytest.mark.parametrize("forced", ["cpu", "reference"])
@pytest.mark.parametrize("spoil, words", BAD_CALLS)
def test_bad_tensors_are_refused_in_words(spoil: object, words: str, forced: str) -> None:
    x, params = torch.randn(3, 6), torch.randn(3, 6)
    with pyflowk.backend(forced), pytest.raises((ValueError, TypeError), match=words):
        pyflowk.ops.affine_coupling(*spoil(x, params))  # type: ignore[operator]


@pytest.mark.parametrize("forced", ["cpu", "reference"])
@pytest.mark.parametrize(
    "options, words",
    [
        ({"mask": "halves"}, "mask: expected one of all, half, channel, alternating, checkerboard; got 'halves'"),
        ({"bound": "relu"}, "bound: expected one of none, tanh, sigmoid; got 'relu'"),
        ({"limit": 0.0}, "limit must be in"),
        ({"limit": -1.0}, "limit must be in"),
        ({"limit": float("nan")}, "limit must be in"),
        ({"limit": 81.0}, "limit must be in"),
        ({"mask": "checkerboard"}, r"x must be \(B, C, H, W\)"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, object], words: str, forced: str) -> None:
    with pyflowk.backend(forced), pytest.raises(ValueError, match=words):
        pyflowk.ops.affine_coupling(torch.randn(3, 6), torch.randn(3, 6), **options)  # type: ignore[arg-type]


def test_the_core_refuses_tensors_without_memory() -> None:
    """Straight into the module, past the router: no crash."""
    script = """
import torch
from torch._subclasses import FakeTensorMode
from pyflowk import _cpu
x = torch.randn(3, 6)
for bad in (FakeTensorMode().from_tensor(x), torch.empty(3, 6, device="meta"), x.to_sparse(), None, 3, x.numpy()):
    for args in ((bad, x), (x, bad)):
        try:
            _cpu.affine_coupling(*args, 2, 2, 2.0, False, False)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            assert str(error), type(bad)
        else:
            raise SystemExit(f"accepted {type(bad)}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
