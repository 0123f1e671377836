from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import LipschitzConvNet, LipschitzMLP
from pyflowk.nets.lipschitz import LayerChain, MatrixChain
from pyflowk.transforms import (
    ActNorm,
    Compose,
    Exact,
    NotAContraction,
    Residual,
    Roulette,
    Truncated,
    check_contraction,
    logdet,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Every parameter away from its start."""
    generator = seeded()
    with torch.no_grad():
        for p in module.parameters():
            p += scale * torch.randn(p.shape, generator=generator).to(p)
    return module


def layer(dims: int = 4, lipschitz: float = 0.8, **options) -> Residual:
    """A layer in float64 and evaluation mode, awake; both modes use the estimator given, series in any dimension."""
    options.setdefault("exact_dims", 0)
    net = LipschitzMLP(dims, 16, 1, lipschitz)
    return awake(Residual(net, **options)).double().eval()  # type: ignore[return-value]


class Linear(nn.Module):
    """x -> A x: its Lipschitz constant is the norm of A; ``rows`` counts the rows it was asked for."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix, self.calls = nn.Parameter(matrix), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x @ self.matrix.T


def worst(lipschitz: float, dims: int = 6) -> Tensor:
    """L times a reflection: the fixed-point iteration contracts by exactly L at every step, in every direction."""
    q, _ = torch.linalg.qr(torch.randn(dims, dims, generator=seeded(), dtype=torch.float64))
    signs = torch.tensor([(-1.0) ** i for i in range(dims)], dtype=torch.float64)
    return lipschitz * (q * signs) @ q.T


# ---- the inverse ----------------------------------------------------------------------------------------------------


def test_lagging_norms_in_training_mode_are_named() -> None:
    residual = layer(lipschitz=0.9).train()
    residual.forward(torch.randn(3, 4, dtype=torch.float64))
    with torch.no_grad():
        residual.branch.layers[0].weight *= 40 * torch.rand(16, 4).double()
        residual.branch.layers[0].iterations = 1
        residual.branch.layers[0].u.copy_(torch.nn.functional.one_hot(torch.tensor(0), 16))
        residual.branch.layers[0].weight[0] *= 1e-3
    with pytest.raises(NotAContraction, match=r"call eval\(\)"):
        residual.inverse(torch.randn(3, 4, dtype=torch.float64))
    assert residual.eval().contraction() < 0.9001
    assert [c.certified < 0.9001 and c.stated == 0.9 for c in check_contraction(residual)] == [True]


def test_gradient_of_the_inverse_is_that_of_the_implicit_function() -> None:
    """Not that of the last step (FrEIA), nor of all steps unrolled."""
    matrix = worst(0.95)
    branch = Linear(matrix)
    residual = Residual(branch, lipschitz=0.95)
    z = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 6, dtype=torch.float64)
    before = branch.calls
    x = residual.to_data(z)
    assert branch.calls - before > 50
    torch.testing.assert_close(x, residual.to_data(z.detach()))
    gradients = torch.autograd.grad((x * weight).sum(), (z, branch.matrix))

    def exact(z: Tensor, matrix: Tensor) -> Tensor:
        return (torch.linalg.solve(torch.eye(6, dtype=torch.float64) + matrix, z.T).T * weight).sum()

    expected = torch.autograd.grad(exact(z, branch.matrix), (z, branch.matrix))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("conditional", [False, True])
def test_gradient_of_x_and_ladj_of_the_inverse(conditional: bool) -> None:
    net = LipschitzMLP(3, 12, 2, 0.9, context_dim=2 if conditional else None)
    residual = awake(Residual(net, Exact(), Exact())).double().eval()
    z = torch.randn(4, 3, dtype=torch.float64)
    context = torch.randn(4, 2, dtype=torch.float64) if conditional else None
    inputs = (z,) if context is None else (z, context)
    torch.autograd.gradcheck(lambda *a: residual.inverse(*a), tuple(t.requires_grad_() for t in inputs))
    parameters = list(residual.parameters())
    x, ladj = residual.inverse(z, context)
    gradients = torch.autograd.grad(x.sin().sum() + ladj.sum(), parameters)
    direction = [torch.randn_like(p) for p in parameters]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * 1e-6 * d
            x, ladj = residual.inverse(z, context)
            values.append((x.sin().sum() + ladj.sum()).item())
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * 1e-6 * d
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_sampling_computes_no_log_determinant() -> None:
    residual = layer()
    residual._value_and_ladj = None  # type: ignore[assignment]
    flow = Flow(DiagonalGaussian((4,)), Compose(residual)).double()
    assert flow.sample(5).shape == (5, 4)


# ---- the log-determinant --------------------------------------------------------------------------------------------

ESTIMATORS = {
    "truncated": Truncated(80, probes=2),
    "roulette": Roulette(2, 0.6),
    "roulette-shared": Roulette(1, 0.7, shared=True),
}


def many(residual: Residual, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n estimates (n, B) of each row's log-determinant."""
    return torch.stack([residual(x, None, generator)[1] for _ in range(n)])


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("any_branch", [False, True])
def test_estimates_are_unbiased(name: str, any_branch: bool) -> None:
    """The value in training mode too: what peers log under their Neumann option estimates nothing."""
    torch.manual_seed(0)
    residual = layer(3, 0.7, training=ESTIMATORS[name])
    branch = residual.branch
    exact = Residual(branch, Exact(), Exact()).eval()
    if any_branch:  # hides linearize: the product comes from autograd, and rows cannot be taken out
        hidden = nn.Module()
        hidden.net, hidden.forward = branch, branch.forward
        residual = Residual(hidden, ESTIMATORS[name], exact_dims=0, lipschitz=0.7)
    branch.eval()
    residual.training = True
    x = torch.randn(4, 3, dtype=torch.float64)
    with torch.no_grad():
        estimates = torch.stack([residual(x.repeat(500, 1), None, seeded(i))[1].reshape(500, 4) for i in range(6)])
    estimates = estimates.flatten(0, 1)
    error = (estimates.mean(0) - exact(x)[1]).abs()
    assert (error < 5 * estimates.std(0) / math.sqrt(len(estimates) if "shared" not in name else 6)).all()
    assert estimates.std(0).max() > 0.01


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_gradients_are_unbiased_whatever_weights_the_rows_have(name: str) -> None:
    """Peers scale every row's gradient with the weight of row 0: here two weights differ in sign, one is 0."""
    torch.manual_seed(0)
    residual = layer(3, 0.6, training=ESTIMATORS[name], evaluation=ESTIMATORS[name])
    exact = Residual(residual.branch, Exact(), Exact()).eval()
    x = torch.randn(3, 3, dtype=torch.float64)
    weight = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)

    def gradient(module: Residual, copies: int, generator: torch.Generator | None) -> list[Tensor]:
        rows = x.repeat(copies, 1).requires_grad_()
        loss = (module(rows, None, generator)[1] * weight.repeat(copies)).sum() / copies
        first, *rest = torch.autograd.grad(loss, (rows, *residual.branch.parameters()), allow_unused=True)
        return [first.reshape(copies, 3, 3).sum(0), *(g for g in rest if g is not None)]

    expected = gradient(exact, 1, None)
    draws = [gradient(residual, 400, seeded(i)) for i in range(12)]
    for i, exact_gradient in enumerate(expected):
        values = torch.stack([draw[i] for draw in draws])
        error = (values.mean(0) - exact_gradient).abs()
        assert (error <= 6 * values.std(0) / math.sqrt(12) + 1e-12).all()
    assert torch.equal(draws[0][0][0], torch.zeros(3, dtype=torch.float64))  # the row of weight 0


def test_weighted_gradients_are_the_sum_of_the_rows_own() -> None:
    """With the same probes, exactly."""
    residual = layer(5, 0.8, evaluation=Truncated(6))
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64)
    ladj = residual(x, None, seeded())[1]
    (whole,) = torch.autograd.grad((ladj * weight).sum(), x, retain_graph=True)
    rows = [torch.autograd.grad(ladj[i], x, retain_graph=True)[0] for i in range(4)]
    torch.testing.assert_close(whole, sum(w * g for w, g in zip(weight, rows, strict=True)))


def test_the_bias_bound_holds_and_is_sharp() -> None:
    """J = -L I is the worst case: every term of the rest has the same sign."""
    dims, lipschitz, terms = 5, 0.9, 10
    matrix = -lipschitz * torch.eye(dims, dtype=torch.float64)
    residual = Residual(Linear(matrix), evaluation=Truncated(terms), lipschitz=lipschitz, exact_dims=0).eval()
    with torch.no_grad():
        bias = abs(residual(torch.zeros(1, dims, dtype=torch.float64))[1].item() - dims * math.log(1 - lipschitz))
    bound = Truncated(terms).bias_bound(dims, lipschitz)
    assert 0.3 * bound < bias <= bound


def test_truncated_terms_equal_the_traces_of_powers() -> None:
    residual = layer(3, 0.8, evaluation=Truncated(4, probes=1))
    x = torch.randn(1, 3, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: residual.branch(x[None])[0])(x[0])
    with torch.no_grad():
        value = residual(x, None, seeded(3))[1].item()
    probe = (2 * torch.randint(0, 2, (1, 3), generator=seeded(3)) - 1).double()[0]
    powers = [probe @ torch.linalg.matrix_power(jacobian, k) @ probe for k in range(1, 5)]
    assert value == pytest.approx(sum((-1) ** k * p.item() / (k + 1) for k, p in enumerate(powers)), rel=1e-10)


def test_small_events_are_exact_by_default_and_both_modes_agree() -> None:
    residual = Residual(awake(LipschitzMLP(8, 16, 2))).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    evaluated = residual.eval()(x)
    for a, b in zip(residual.train()(x), evaluated, strict=True):
        assert torch.equal(a, b)


def test_modes_use_their_own_estimator() -> None:
    residual = layer(4, training=Roulette(), evaluation=Exact())
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(residual(x, None, seeded(1))[1], residual(x, None, seeded(2))[1])
    residual.train()
    assert not torch.equal(residual(x, None, seeded(1))[1], residual(x, None, seeded(2))[1])


@pytest.mark.parametrize("estimator", [Truncated(5), Roulette(), Roulette(shared=True)])
def test_the_seed_alone_decides(estimator: Truncated | Roulette) -> None:
    residual = layer(4, training=estimator, evaluation=estimator)
    flow = Flow(DiagonalGaussian((4,)), Compose(ActNorm(4), residual, residual)).double().eval()
    state = torch.get_rng_state()
    x, log_prob = flow.sample_and_log_prob(6, None, seeded(5))
    assert torch.equal(flow.sample_and_log_prob(6, None, seeded(5))[1], log_prob)
    assert torch.equal(flow.log_prob(x, None, seeded(1)), flow.log_prob(x, None, seeded(1)))
    assert not torch.equal(flow.log_prob(x, None, seeded(1)), flow.log_prob(x, None, seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)
    z, forward = residual(x, None, seeded(9))
    torch.testing.assert_close(residual.inverse(z, None, seeded(9))[1], -forward)


def test_roulette_leaves_out_rows_that_have_stopped() -> None:
    """A batch costs its mean number of terms: about 3 here, where the largest of 4000 is about 14."""
    residual = Residual(LipschitzConvNet(1, (2, 2), 4, kernels=(3, 3)), evaluation=Roulette(2, 0.5), exact_dims=0)
    residual = awake(residual).eval()
    x = torch.randn(4000, 1, 2, 2)
    residual.forward(x[:1])  # the norms are computed
    rows: list[int] = []
    real = type(residual.branch.layers[0]).apply_adjoint

    def counting(self: nn.Module, weight: Tensor, y: Tensor) -> Tensor:
        rows.append(len(y))
        return real(self, weight, y)

    type(residual.branch.layers[0]).apply_adjoint = counting
    try:
        with torch.no_grad():
            residual(x, None, seeded())
    finally:
        type(residual.branch.layers[0]).apply_adjoint = real
    products = sum(rows) / len(residual.branch.layers) / 4000
    assert 2.8 < products < 3.2 and len(rows) > 8 * len(residual.branch.layers)


@pytest.mark.parametrize("estimator", [Truncated(6, probes=2), Roulette(2, 0.6), Roulette(1, 0.7, shared=True)])
@pytest.mark.parametrize("conditional", [False, True])
def test_one_call_for_all_terms_changes_nothing(estimator: Truncated | Roulette, conditional: bool) -> None:
    """Against the chain in torch, whose products a branch gets that is no chain of matrices: value and gradients."""
    residual = Residual(LipschitzMLP(5, 16, 2, 0.8, context_dim=3 if conditional else None), estimator, exact_dims=0)
    residual = awake(residual).double()
    residual(torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    x = torch.randn(60, 5, dtype=torch.float64, requires_grad=True)
    context = torch.randn(60, 3, dtype=torch.float64) if conditional else None
    inputs = (x, *residual.branch.layers.parameters())
    results = []
    for chain in (MatrixChain, LayerChain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyflowk.nets.lipschitz.MatrixChain", chain)
            ladj = residual(x, context, seeded())[1]
        results.append((ladj, *torch.autograd.grad((ladj * torch.arange(60)).sum(), inputs, allow_unused=True)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("estimator", [Exact(), Truncated(6), Roulette()])
@pytest.mark.parametrize("image", [False, True])
def test_recompute_changes_nothing_but_the_memory(estimator: Exact | Truncated | Roulette, image: bool) -> None:
    net: nn.Module = LipschitzConvNet(2, (3, 3), 8) if image else LipschitzMLP(6, 64, 2)
    shape = (2, 3, 3) if image else (6,)
    awake(net)
    results = []
    for recompute in (False, True):
        residual = Residual(net, estimator, estimator, exact_dims=0, recompute=recompute).double().eval()
        x = torch.randn((5, *shape), generator=seeded(), dtype=torch.float64).requires_grad_()
        saved: list[int] = []

        def pack(t: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            z, ladj = residual(x, None, seeded(1))
        gradients = torch.autograd.grad(z.sin().sum() + (ladj * torch.arange(5)).sum(), (x, *net.parameters()))
        results.append((z, ladj, *gradients, sum(saved)))
    plain, again = results
    for a, b in zip(plain[:-1], again[:-1], strict=True):
        torch.testing.assert_close(a, b)
    assert again[-1] < plain[-1] / 4


def test_memory_does_not_grow_with_the_number_of_terms() -> None:
    sizes = []
    for terms in (2, 30):
        residual = layer(4, evaluation=Truncated(terms))
        saved: list[int] = []

        def pack(t: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            residual(torch.randn(5, 4, dtype=torch.float64), None, seeded())
        sizes.append(sum(saved))
    assert sizes[0] == sizes[1] > 0


def test_second_derivatives_are_exact_or_refused() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    exact = layer(3, training=Exact(), evaluation=Exact())
    assert torch.autograd.gradgradcheck(lambda x: exact(x), (x,))
    estimated = layer(3, evaluation=Truncated(5))
    with pytest.raises(NotImplementedError, match=r"Exact\(\)"):
        torch.autograd.grad(estimated(x)[1].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(exact.to_data(x).sum(), x, create_graph=True)


def test_estimates_under_torch_func_have_derivatives_of_every_order() -> None:
    """All sign vectors as probes: the mean is the exact series. A tenth of a percent is left by its remainder."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    residual = layer(3, evaluation=Truncated(12))
    exact = layer(3, training=Exact(), evaluation=Exact())
    exact.load_state_dict(residual.state_dict())
    x = torch.randn(3, dtype=torch.float64)

    def mean(x: Tensor) -> Tensor:
        return residual(x.expand(8, 3))[1].mean()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logdet, "_rademacher", lambda x, generator: signs)
        found = [torch.func.grad(mean)(x), torch.func.hessian(mean)(x), torch.func.jacrev(torch.func.jacrev(mean))(x)]
    one = lambda x: exact(x[None])[1][0]  # noqa: E731
    truth = [torch.func.grad(one)(x), *[torch.func.hessian(one)(x)] * 2]
    assert truth[1].abs().max() > 1e-3
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3 * truth[1].abs().max().item())


def test_per_sample_gradients_by_vmap() -> None:
    residual = layer(4, evaluation=Exact())
    parameters = dict(residual.named_parameters())
    x = torch.randn(3, 4, dtype=torch.float64)
    residual(x)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        z, ladj = torch.func.functional_call(residual, parameters, (x[None],))
        return (z.square().sum() - ladj)[0]

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    z, ladj = residual(x)
    (z.square().sum() - ladj.sum()).backward()
    for name, p in residual.named_parameters():
        torch.testing.assert_close(rows[name].sum(0), p.grad)


def test_compiled_sampling_loops_on_the_device() -> None:
    """At 0.98 the iteration takes hundreds of steps; the graph must not."""
    residual = Residual(awake(LipschitzMLP(4, 8, 1, 0.98))).eval()
    z = torch.randn(5, 4)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = residual.to_data(z)
        graphs: list[int] = []

        def backend(graph, inputs):
            graphs.append(len(graph.graph.nodes))
            return graph.forward

        compiled = torch.compile(residual.to_data, fullgraph=True, backend=backend)(z)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1 and graphs[0] < 200


@pytest.mark.parametrize("tolerance", [None, 1e-5])
def test_compiled_sampling_takes_numbers_that_are_symbols(tolerance: float | None) -> None:
    """With dynamic=True floats are symbols as well, which torch's while_loop refuses."""
    residual = Residual(awake(LipschitzMLP(4, 8, 1, 0.9)), tolerance=tolerance).eval()
    torch._dynamo.reset()
    compiled = torch.compile(residual.to_data, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for rows in (5, 3):
            z = torch.randn(rows, 4)
            torch.testing.assert_close(compiled(z), residual.to_data(z), rtol=1e-4, atol=1e-4)


def test_wrong_arguments_are_named() -> None:
    net = LipschitzMLP(3)
    for options, words in [
        ({"lipschitz": 1.0}, "lipschitz"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ]:
        with pytest.raises(ValueError, match=words):
            Residual(net, **options)
    with pytest.raises(ValueError, match="lipschitz="):
        Residual(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"return \(2, 3\), got \(2, 4\)"):
        Residual(nn.Linear(3, 4), lipschitz=0.5)(torch.zeros(2, 3))
    for direction in ("forward", "inverse", "to_data"):
        with pytest.raises(ValueError, match=r"expects \(B, \*event\), got \(3,\)"):
            getattr(Residual(net), direction)(torch.zeros(3))
    with pytest.raises(ValueError, match="terms"):
        Truncated(0)
    with pytest.raises(ValueError, match="survival"):
        Roulette(survival=1.0)
