"""Flows of other packages with kernels inside give the values and gradients that they gave, on the same parameters."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from pyflowk.compat import Acceleration, _masked, accelerate
from pyflowk.compat._verify import numbers
from pyflowk.transforms import Scale

MADE, SPLINE = "MADE, every unit once both ways, affine", "rational-quadratic spline"
COUPLING, MADE_SPLINE = "coupling in one call, affine", f"MADE, every unit once both ways, {SPLINE}"


# ---- flows of every package, built small -----------------------------------------------------------------------------


def zuko(kind: str, *args: Any, **options: Any) -> Any:
    return getattr(importlib.import_module("zuko").flows, kind)(*args, **options)


def zuko_coupling() -> Any:
    z = importlib.import_module("zuko")
    univariate = partial(z.transforms.MonotonicRQSTransform, bound=2.5)
    options = {"univariate": univariate, "shapes": [(4,), (4,), (3,)]}
    layers = [z.flows.GeneralCouplingTransform(5, 2, mask=[i, 1, 0, 0, 1], **options) for i in (True, False)]
    return z.flows.Flow(layers, z.flows.MAF(5).base)


def zuko_iaf() -> Any:
    z = importlib.import_module("zuko")
    layer = z.flows.MaskedAutoregressiveTransform(4, 2, order=[2, 0, 3, 1], hidden_features=(9,), activation=nn.SiLU)
    order = torch.tensor([3, 1, 0, 2])
    permutation = z.flows.UnconditionalTransform(z.transforms.PermutationTransform, order, buffer=True)
    return z.flows.Flow([layer.inv, permutation], z.flows.MAF(4).base)


def nflows_of(features: int, layers: Callable[[Any], list[Any]]) -> Any:
    transforms = importlib.import_module("nflows.transforms")
    base = importlib.import_module("nflows.distributions").StandardNormal([features])
    composite = transforms.CompositeTransform([*layers(transforms), transforms.ReversePermutation(features)])
    return importlib.import_module("nflows.flows").Flow(composite, base)


def nflows(name: str, features: int = 5, **options: Any) -> Any:
    return nflows_of(features, lambda t: [getattr(t, name)(features, **options)])


def nflows_coupling(names: list[str], context: int | None, flip: int = 0, **options: Any) -> Any:
    nets = importlib.import_module("nflows.nn.nets")
    net = partial(nets.ResidualNet, hidden_features=12, context_features=context, num_blocks=1)
    masks = [1, 1, -1, -1, 1][:: 1 - 2 * flip], [-1, 1, -1, -1, 1]
    return nflows_of(5, lambda t: [getattr(t, name)(m, net, **options) for name, m in zip(names, masks)])


def normflows_coupling() -> Any:
    nf = importlib.import_module("normflows")
    kinds = [([3, 8, 7, 4], {}), ([2, 8, 7, 3], {"scale": False, "split_mode": "channel_inv"})]
    layers = [nf.flows.AffineCouplingBlock(nf.nets.MLP(sizes), **options) for sizes, options in kinds]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(5, trainable=False), layers)


def normflows(name: str, *args: Any, features: int = 5, **options: Any) -> Any:
    nf = importlib.import_module("normflows")
    layers = []
    for _ in range(2):
        layers += [getattr(nf.flows, name)(features, *args, **options), nf.flows.LULinearPermute(features)]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), layers)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Case:
    build: Callable[[], Any]
    features: int
    context: int
    remarks: tuple[str, ...]  # of the layers that have a kernel
    package: str = ""

    def flow(self, seed: int = 0) -> Any:
        pytest.importorskip(self.package)
        torch.manual_seed(seed)
        flow = self.build().double()
        for p in flow.parameters():
            nn.init.normal_(p, std=0.5 / max(1, p[0].numel() if p.dim() > 1 else 1) ** 0.5)
        return flow

    def x(self, rows: int = 6) -> Tensor:
        return 2 * torch.randn(rows, self.features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def c(self, rows: int = 6) -> Tensor | None:
        generator = torch.Generator().manual_seed(2)
        return torch.randn(rows, self.context, dtype=torch.float64, generator=generator) if self.context else None

    def log_prob(self, flow: Any, x: Tensor, c: Tensor | None) -> Tensor:
        if self.package == "zuko":
            return flow(c).log_prob(x)
        return flow.log_prob(x) if c is None else flow.log_prob(x, context=c)

    def sample(self, flow: Any, n: int, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Samples and their log-density, differentiable, from the same noise in every call."""
        torch.manual_seed(3)
        if self.package == "zuko":
            return flow(c).rsample_and_log_prob((n,))
        if self.package == "nflows":  # its noise is of the default type whatever the flow
            with default_dtype(next(t.dtype for t in flow.state_dict().values() if t.is_floating_point())):
                return flow.sample_and_log_prob(n, context=c)
        return flow.sample(n)


_AFFINE, _SPLINE = "MaskedAffineAutoregressiveTransform", "MaskedPiecewiseRationalQuadraticAutoregressiveTransform"
_CASES = {
    "zuko-maf": Case(
        partial(zuko, "MAF", 5, 2, transforms=2, hidden_features=(13, 9), activation=nn.ELU), 5, 2, (MADE,) * 2
    ),
    "zuko-maf-shuffled": Case(
        partial(zuko, "MAF", 11, randperm=True, activation=nn.Tanh, hidden_features=(20,)), 11, 0, (MADE,) * 3
    ),
    "zuko-maf-residual": Case(
        partial(zuko, "MAF", 5, 2, transforms=2, residual=True, hidden_features=(9, 9)), 5, 2, (MADE,) * 2
    ),
    "zuko-maf-2-passes": Case(partial(zuko, "MAF", 6, 2, transforms=2, passes=2), 6, 2, (MADE,) * 2),
    "zuko-iaf": Case(zuko_iaf, 4, 2, (MADE,)),
    "zuko-nice": Case(partial(zuko, "NICE", 5, 2, transforms=2, hidden_features=(8, 7)), 5, 2, (COUPLING,) * 2),
    "zuko-nsf": Case(partial(zuko, "NSF", 4, 2, bins=5, transforms=2, slope=1e-2), 4, 2, (MADE_SPLINE,) * 2),
    "zuko-nsf-coupling": Case(zuko_coupling, 5, 2, (SPLINE,) * 2),
    "zuko-nsf-1": Case(partial(zuko, "NSF", 1, 2, bins=5, transforms=2), 1, 2, (SPLINE,) * 2),
    "zuko-nsf-1-free": Case(partial(zuko, "NSF", 1, bins=5, transforms=1), 1, 0, (SPLINE,)),
    "nflows-maf": Case(
        partial(
            nflows, _AFFINE, hidden_features=14, context_features=2, use_residual_blocks=False, activation=torch.tanh
        ),
        5, 2, (MADE,),
    ),
    "nflows-maf-residual": Case(partial(nflows, _AFFINE, hidden_features=14, context_features=2), 5, 2, (MADE,)),
    "nflows-maf-random": Case(
        partial(nflows, _AFFINE, hidden_features=20, use_residual_blocks=False, random_mask=True), 5, 0, (MADE,)
    ),
    "nflows-maf-1": Case(
        partial(nflows, _AFFINE, features=1, hidden_features=4, context_features=2, num_blocks=1), 1, 2, (MADE,)
    ),
    "nflows-nsf": Case(
        partial(nflows, _SPLINE, hidden_features=12, num_bins=4, tails="linear", tail_bound=2.0, context_features=2),
        5, 2, (MADE_SPLINE,),
    ),
    "nflows-coupling": Case(
        partial(nflows_coupling, ["AffineCouplingTransform", "AdditiveCouplingTransform"], None), 5, 0, (COUPLING,) * 2
    ),
    "nflows-nsf-coupling": Case(
        partial(nflows_coupling, ["PiecewiseRationalQuadraticCouplingTransform"] * 2, 2, num_bins=4, tails="linear"),
        5, 2, (SPLINE,) * 2,
    ),
    "normflows-maf": Case(partial(normflows, "MaskedAffineAutoregressive", 12), 5, 0, (MADE,) * 2),
    "normflows-maf-plain": Case(
        partial(normflows, "MaskedAffineAutoregressive", 12, use_residual_blocks=False, activation=torch.tanh),
        5, 0, (MADE,) * 2,
    ),
    "normflows-nsf": Case(
        partial(normflows, "AutoregressiveRationalQuadraticSpline", 1, 12, permute_mask=True), 5, 0, (MADE_SPLINE,) * 2
    ),
    "normflows-coupling": Case(normflows_coupling, 5, 0, (COUPLING,) * 2),
    "normflows-nsf-coupling": Case(partial(normflows, "CoupledRationalQuadraticSpline", 1, 12), 5, 0, (SPLINE,) * 4),
}  # fmt: skip
CASES = {name: replace(case, package=name.split("-")[0]) for name, case in _CASES.items()}


def grads(loss: Tensor, flow: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, flow.parameters())]


def assert_close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_both_ways(name: str) -> None:
    case = CASES[name]
    flow = case.flow()
    before = copy.deepcopy(flow)
    fast = accelerate(flow)
    assert type(fast) is type(flow)
    assert [id(p) for p in fast.parameters()] == [id(p) for p in flow.parameters()]
    assert list(fast.state_dict()) == list(flow.state_dict())
    found = [part.remark for part in fast.acceleration if part.accelerated]
    assert len(found) == len(case.remarks) and all(want in got for want, got in zip(case.remarks, found))
    x, c = case.x().requires_grad_(), case.c()
    weights = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    results = []
    for which in (before, fast, flow):
        density = case.log_prob(which, x, c)
        sample, log_q = case.sample(which, 6, c)
        with torch.no_grad():
            quiet = case.log_prob(which, x, c), *case.sample(which, 6, c)
        of_density, of_sample = density @ weights, sample.sin().sum() + log_q.flatten()[:6] @ weights
        by_x = torch.autograd.grad(of_density, x, retain_graph=True)
        results.append([density, sample, log_q, *quiet, *by_x, *grads(of_density, which), *grads(of_sample, which)])
    for other in results[1:]:
        assert_close(other, results[0])


@pytest.mark.parametrize("name", ["zuko-maf", "zuko-nice", "nflows-maf", "nflows-coupling"])
def test_on_a_card_kernels_make_only_what_is_sequential(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are made at once are torch's products there, which the layers have themselves."""
    case = CASES[name]
    flow = case.flow()
    fast = accelerate(flow)
    forward, inverse = Mock(wraps=_masked.made_forward), Mock(wraps=_masked.made_inverse)
    monkeypatch.setattr(_masked, "made_forward", forward)
    monkeypatch.setattr(_masked, "made_inverse", inverse)
    monkeypatch.setattr(Tensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    x, c = case.x(), case.c()
    assert_close(case.log_prob(fast, x, c), case.log_prob(flow, x, c))
    assert not forward.called and not inverse.called
    assert_close(case.sample(fast, 6, c), case.sample(flow, 6, c))
    assert not forward.called and inverse.called == ("maf" in name)


@pytest.mark.parametrize("name", ["zuko-maf", "nflows-maf-residual", "normflows-nsf-coupling"])
def test_single_precision(name: str) -> None:
    case = CASES[name]
    flow = case.flow().float()
    fast = accelerate(flow)
    x, c = case.x().float(), None if case.c() is None else case.c().float()
    for which in (case.log_prob(fast, x, c), case.sample(fast, 6, c)[0]):
        assert which.dtype == torch.float32
    torch.testing.assert_close(case.log_prob(fast, x, c), case.log_prob(flow, x, c), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(case.sample(fast, 6, c)[0], case.sample(flow, 6, c)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["zuko-maf", "zuko-nsf", "nflows-maf", "normflows-maf"])
def test_one_set_of_parameters(name: str) -> None:
    """A step of an optimizer over the original's, a load of a state dict: both follow, caches included."""
    case = CASES[name]
    flow = case.flow()
    fast = accelerate(flow)
    optimizer = torch.optim.Adam(flow.parameters(), 0.05)
    x, c = case.x(), case.c()
    with torch.no_grad():
        start = case.log_prob(fast, x, c)
    (-case.log_prob(fast, x, c).mean()).backward()
    optimizer.step()
    with torch.no_grad():
        moved = case.log_prob(fast, x, c)
        assert (moved - start).abs().min() > 1e-3
        assert_close(moved, case.log_prob(flow, x, c))
        fast.load_state_dict(case.flow(seed=5).state_dict())
        assert_close(case.log_prob(fast, x, c), case.log_prob(flow, x, c))


STRUCTURES: dict[str, Callable[[int], Any]] = {
    "zuko": lambda seed: zuko("MAF", 5, randperm=True, hidden_features=(12,)),
    "zuko-coupling": lambda seed: zuko("NICE", 6, randmask=True, hidden_features=(12,)),
    "nflows": lambda seed: nflows(
        _AFFINE, hidden_features=12, num_blocks=1, random_mask=True, use_residual_blocks=False
    ),
    "nflows-coupling": lambda seed: nflows_coupling(["AffineCouplingTransform"], None, seed),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_state_dict_may_bring_other_masks(kind: str) -> None:
    pytest.importorskip(kind.split("-")[0])
    flows = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        flows.append(STRUCTURES[kind](seed).double())
        for p in flows[-1].parameters():
            nn.init.normal_(p, std=0.5)
    fast = accelerate(flows[0])
    case = Case(lambda: None, 0, 0, (), kind.split("-")[0])
    x = torch.randn(6, 6 if kind == "zuko-coupling" else 5).double()
    with torch.no_grad():
        before = case.log_prob(fast, x, None)
        fast.load_state_dict(flows[1].state_dict())
        found, expected = case.log_prob(fast, x, None), case.log_prob(flows[1], x, None)
    assert_close(found, expected)
    assert (found - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["zuko-maf", "zuko-nsf-1", "nflows-maf-residual", "normflows-nsf-coupling"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_copies_stand_alone(name: str, again: Callable[[Any], Any]) -> None:
    case = CASES[name]
    flow = case.flow()
    fast = accelerate(flow)
    x, c = case.x(), case.c()
    expected = case.log_prob(flow, x, c).detach()
    try:
        twin = again(fast)
    except (AttributeError, pickle.PicklingError) as error:
        with pytest.raises(type(error)):
            again(flow)  # the package's own flow cannot be pickled either
        return
    with torch.no_grad():
        assert_close(case.log_prob(twin, x, c), expected)
        for p in flow.parameters():
            p.add_(0.1)
        assert_close(case.log_prob(twin, x, c), expected)
    assert len(twin.acceleration) == len(fast.acceleration)
    assert accelerate(fast) is fast


def test_contexts_are_broadcast_as_in_zuko() -> None:
    case = CASES["zuko-maf"]
    flow = case.flow()
    fast = accelerate(flow)
    x, c = case.x(24).view(4, 6, 5), case.c(6)
    for a, b in [(x, c), (x, c[0]), (x[0, 0], c[0])]:
        assert_close(fast(b).log_prob(a), flow(b).log_prob(a))
    for b, shape in [(c, (3,)), (c[0], (3, 2)), (c[0], ()), (c, ())]:
        found = []
        for which in (flow, fast):
            torch.manual_seed(0)
            found.append(which(b).sample(shape))
        assert_close(found[1], found[0])
    assert fast(c).transform.inv.inv(x).shape == x.shape


def test_what_is_left_alone_is_listed() -> None:
    z = pytest.importorskip("zuko")
    layers = [
        z.flows.MaskedAutoregressiveTransform(3),
        z.flows.MaskedAutoregressiveTransform(3, residual=True, hidden_features=(9, 6)),
        z.flows.GeneralCouplingTransform(3, normalize=True),
        z.flows.MaskedAutoregressiveTransform(3, activation=nn.Softplus), z.flows.NAF(3, transforms=1).transform,
    ]  # fmt: skip
    flow = z.flows.Flow(layers, z.flows.MAF(3).base)
    with pytest.warns(UserWarning, match="3 layers run as before"):
        fast = accelerate(flow)
    assert isinstance(fast.acceleration, Acceleration)
    assert [part.accelerated for part in fast.acceleration] == [True] + [False] * 4
    wanted = MADE, "several widths", "nothing to gain", "softplus", "MNN"
    assert all(want in part.remark for want, part in zip(wanted, fast.acceleration))
    assert [part.path for part in fast.acceleration.left_alone] == [
        f"transform.transforms.{i}" for i in ("1", "3", "4.transforms.0")
    ]
    assert "transform.transforms.3 (MaskedAutoregressiveTransform): as it was" in str(fast.acceleration)
    x = torch.randn(4, 3)
    torch.testing.assert_close(fast().log_prob(x), flow().log_prob(x))


def test_a_layer_that_computes_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another version of the package, or a class derived from it."""
    made = pytest.importorskip("nflows.transforms.autoregressive").MaskedAffineAutoregressiveTransform
    flow = CASES["nflows-maf"].flow()

    def elementwise(self: Any, inputs: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self._unconstrained_scale_and_shift(params)
        return inputs * raw.sigmoid() + shift, raw.sigmoid().log().sum(1)

    class Own(made):  # type: ignore[misc, valid-type]
        pass

    with monkeypatch.context() as patch:
        patch.setattr(made, "_elementwise_forward", elementwise)
        with pytest.warns(UserWarning, match="something else"):
            assert not accelerate(flow).acceleration[0].accelerated
    flow._transform._transforms[0].__class__ = Own
    with pytest.warns(UserWarning, match="a class of its own"):
        assert not accelerate(flow).acceleration[0].accelerated


def test_around_a_flow() -> None:
    """sbi's estimators, and any other module that holds a flow."""
    case = CASES["zuko-maf"]
    outer = nn.ModuleDict({"net": case.flow(), "embedding": nn.Linear(2, 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = accelerate(outer)
    assert fast.acceleration[0].path == "net.transform.transforms.0"
    assert_close(fast["net"](case.c()).log_prob(case.x()), outer["net"](case.c()).log_prob(case.x()))


@pytest.mark.parametrize("flow", [nn.Linear(2, 2), "zuko", None])
def test_other_things_are_refused(flow: Any) -> None:
    with pytest.raises(TypeError, match=r"a flow of zuko, nflows or normflows .* got .*(Linear|str|NoneType)"):
        accelerate(flow)


@pytest.mark.parametrize("kind", ["MAF", "NSF", "NICE", "RealNVP"])
def test_the_smallest_flows_of_zuko(kind: str) -> None:
    """One feature leaves layers without a network, and no hidden layers leave them a linear one."""
    pytest.importorskip("zuko")
    for features, context, hidden in [(1, 0, (8,)), (1, 2, (8,)), (1, 0, ()), (2, 0, ()), (2, 1, (1,))]:
        flow = zuko(kind, features, context, transforms=1, hidden_features=hidden).double()
        x, c = numbers(4, features), numbers(4, context) if context else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fast = accelerate(flow)
        torch.testing.assert_close(fast(c).log_prob(x), flow(c).log_prob(x))


def test_a_coupling_that_moves_nothing_is_left_to_its_package() -> None:
    """normflows makes such a layer of one feature, and then cannot run it."""
    pytest.importorskip("normflows")
    flow = accelerate(normflows("CoupledRationalQuadraticSpline", 1, 8, features=1, num_bins=3))
    assert all("Coupling" not in part.layer for part in flow.acceleration if part.accelerated)


class Posterior:
    """sbi's, as far as it matters here."""

    def __init__(self, estimator: nn.Module) -> None:
        self.prior, self.posterior_estimator = None, estimator


def test_what_to_hand_in_instead() -> None:
    pytest.importorskip("zuko")
    flow = zuko("MAF", 2, 1)
    for wrong, words in [
        (Posterior(nn.Sequential(flow)), "Posterior: accelerate its posterior_estimator and put the result there"),
        (Posterior(nn.Linear(1, 1)), "Posterior$"),
        (type(flow), "MAF, a class: make a flow of it first"),
        ([flow, flow], "list: accelerate its flows one by one"),
        (flow(torch.zeros(1)), "a distribution: accelerate the flow that gave it"),
        (type("Freia", (nn.Module,), {"__module__": "FrEIA.framework.sequence_inn"})(), "gain nothing; zoo.realnvp"),
        (nn.Linear(1, 1), "Linear, which has no layer of theirs"),
        (Scale(2.0), "Scale, which runs on these kernels as it is"),
        (None, "NoneType$"),
    ]:
        with pytest.raises(TypeError, match=words):
            accelerate(wrong)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="on the meta device"):
        accelerate(zuko("MAF", 2).to("meta"))
