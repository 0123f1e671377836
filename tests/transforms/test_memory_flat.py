"""Memory-flat stacks: the gradients of plain autograd, in every way that autograd is used, and flat memory."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.memory import peak_bytes
from pyflowk import transforms as T
from pyflowk.nets import MLP, ResidualConvNet
from pyflowk.transforms import ActNorm, Affine, Compose, Coupling, Elementwise, Flip, MemoryFlat, Split, Transform

from .registry import CASES, Case, sinh_asinh

DETERMINISTIC = [case for case in CASES if not (case.build().stochastic or case.build().estimates_ladj)]


def gradients(stack: Transform, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
    """z, ladj, and the gradients of x, of a real context and of the parameters, for one random pair of weights."""
    x = x.detach().clone().requires_grad_()
    inputs = [x, *stack.parameters()]
    if context is not None and context.is_floating_point():
        context = context.detach().clone().requires_grad_()
        inputs.append(context)
    z, ladj = stack(x, context)
    noise = torch.Generator().manual_seed(3)
    loss = (z * torch.randn(z.shape, generator=noise, dtype=z.dtype)).sum()
    loss = loss + (ladj * torch.randn(ladj.shape, generator=noise, dtype=ladj.dtype)).sum()
    return [z.detach(), ladj.detach(), *torch.autograd.grad(loss, inputs, allow_unused=True)]


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Relative to the largest magnitude in each tensor."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype
        if left.numel():
            worst = max(worst, float((left - right).abs().max() / right.abs().max().clamp(min=1e-30)))
    return worst


def moved(stack: Transform, scale: float = 0.3) -> Transform:
    """Away from the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in stack.parameters():
            fan_in = max(1, p[:1].numel()) if p.dim() > 1 else 1
            p += scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan_in**0.5
    return stack


def couplings(number: int, size: int = 6, map: Callable[[], Any] = Affine, **condition: int) -> list[Transform]:
    layers: list[Transform] = []
    for _ in range(number):
        net = MLP(size - size // 2, map().params_per_element * (size // 2), 16, 1, "tanh", **condition)
        layers += [ActNorm(size), T.Permute.random(size), Coupling(net, map(), "half", swap=False)]
    return layers


def image_stack(steps: int, kind: type[Compose] = MemoryFlat, width: int = 16) -> Compose:
    """(3, 8, 8) in two scales, as Glow is built."""

    def some(channels: int, number: int) -> list[Transform]:
        layers: list[Transform] = []
        for i in range(number):
            map = (Affine, T.Additive)[i % 2]()
            out = map.params_per_element * (channels - channels // 2)
            net = ResidualConvNet(channels // 2, out, width, blocks=1, activation="silu")
            layers += [ActNorm(channels), Flip(), Coupling(net, map)]
        return layers

    top = Compose(T.Squeeze(), *some(24, steps), T.Reshape((24, 2, 2), (96,)))
    return kind(T.Scale(0.5), T.Squeeze(), *some(12, steps), Split(top, (12, 4, 4), (96,)))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_gradients_are_those_of_plain_autograd(case: Case) -> None:
    transform, x, context = case.make().double(), case.data(5), case.contexts(5)
    flat = MemoryFlat(transform)
    assert largest_difference(gradients(flat, x, context), gradients(Compose(transform), x, context)) < 1e-10


def test_a_stack_of_64_layers() -> None:
    torch.manual_seed(0)
    flat = moved(MemoryFlat(*couplings(64))).double()
    x = torch.randn(20, 6, dtype=torch.float64)
    flat.initialize(x)
    assert largest_difference(gradients(flat, x), gradients(Compose(*flat), x)) < 1e-10


def test_a_multiscale_image_stack() -> None:
    torch.manual_seed(0)
    flat = moved(image_stack(6)).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    flat.initialize(x)
    assert flat.checkpointed == ()
    assert largest_difference(gradients(flat, x), gradients(Compose(*flat), x)) < 1e-10


def test_float32_drift_after_32_steps_is_small() -> None:
    """Affine layers that change the volume by 0.15 nats an element on average: a trained model's, not the identity."""
    torch.manual_seed(0)
    flat = moved(image_stack(16), 0.6)
    x = torch.randn(16, 3, 8, 8)
    flat.initialize(x)
    h, volumes = x, []
    for layer in flat:
        h, ladj = layer(h)
        if isinstance(layer, Coupling) and isinstance(layer.map, Affine):
            volumes.append(ladj.abs().mean().item() / (6 * 4 * 4))
    assert sum(volumes) / len(volumes) > 0.15
    mine, plain = gradients(flat, x)[2:], gradients(Compose(*flat), x)[2:]
    drift = sum((a - b).square().sum() for a, b in zip(mine, plain)) / sum(b.square().sum() for b in plain)
    assert float(drift.sqrt()) < 1e-3
    assert 0 < flat.last_error < 1e-3


def test_gradients_accumulate_over_calls_and_over_uses() -> None:
    torch.manual_seed(0)
    shared = Coupling(MLP(2, 4, 8), swap=True)
    tied = Coupling(MLP(2, 4, 8))
    tied.net.first.weight = shared.net.first.weight
    layers = (shared, Flip(), tied, Flip(), shared)
    x = torch.randn(7, 4, dtype=torch.float64)
    found = []
    for kind in (MemoryFlat, Compose):
        stack = moved(kind(*layers), 0.1 if not found else 0.0).double()
        stack.zero_grad()
        for batch in (x, 2 * x):
            z, ladj = stack(batch)
            (z.square().sum() - ladj.sum()).backward()
        found.append([p.grad for p in stack.parameters()])
    assert largest_difference(*found) < 1e-12


def test_hooks_see_the_whole_gradient_once() -> None:
    torch.manual_seed(0)
    coupling = Coupling(MLP(2, 4, 8))
    flat = moved(MemoryFlat(coupling, Flip(), coupling))
    seen, weight = [], coupling.net.first.weight
    weight.register_hook(lambda g: seen.append(g) or 2 * g)
    z, _ = flat(torch.randn(5, 4))
    z.square().sum().backward()
    assert len(seen) == 1 and torch.equal(weight.grad, 2 * seen[0])


def test_frozen_parameters_and_no_grad() -> None:
    flat = moved(MemoryFlat(*couplings(2)))
    for p in flat[0].parameters():
        p.requires_grad_(False)
    z, _ = flat(torch.randn(5, 6))
    z.sum().backward()
    assert flat[0].bias.grad is None and flat[3].bias.grad is not None
    with torch.no_grad():
        assert not flat(torch.randn(5, 6))[0].requires_grad


def test_only_what_needs_a_gradient_gets_one() -> None:
    flat = moved(MemoryFlat(*couplings(2, context_dim=3)))
    x, context = torch.randn(5, 6), torch.randn(5, 3, requires_grad=True)
    z, _ = flat(x, context)
    z.square().sum().backward()  # the gradient of ladj is missing
    assert x.grad is None and context.grad.abs().sum() > 0
    labelled = moved(MemoryFlat(*couplings(2, classes=4)))
    labelled(x, torch.arange(5) % 4)[1].sum().backward()  # that of z is
    assert labelled[2].net.context.table.weight.grad.abs().sum() > 0


def test_functional_call_uses_the_parameters_and_buffers_it_was_given() -> None:
    torch.manual_seed(0)
    flat = moved(MemoryFlat(T.BatchNorm(6), *couplings(3))).eval().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    found = []
    for stack in (flat, Compose(*flat).eval()):
        start = {name: p.detach().clone().requires_grad_() for name, p in stack.named_parameters()}
        stepped = {name: p * 1.1 for name, p in start.items()}
        others = {name: b + 0.5 for name, b in stack.named_buffers() if b.is_floating_point()}
        assert others
        z, ladj = torch.func.functional_call(stack, (stepped, others), (x,))
        found.append(list(torch.autograd.grad(z.square().sum() - ladj.sum(), list(start.values()))))
    assert largest_difference(*found) < 1e-12
    assert all(p.grad is None for p in flat.parameters())


def test_autocast_is_entered_again_and_leaves_no_casts_behind() -> None:
    torch.manual_seed(0)
    net = MLP(3, 6, 16, 1, "tanh")
    stack = moved(Compose(ActNorm(6), Coupling(net), Flip(), Coupling(net, Elementwise(sinh_asinh, 2))))
    x, found = torch.randn(9, 6), []
    for kind in (MemoryFlat, Compose):
        stack.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            z, ladj = kind(*stack)(x)
            beside = net(x[:, :3]).float().sum()
        (z.square().sum() - ladj.sum() + beside).backward()
        found.append([p.grad.clone() for p in stack.parameters()])
    assert largest_difference(*found) < 0.02
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        MemoryFlat(*stack)(x)
        net(x[:, :3]).float().sum().backward()
    assert net.first.weight.grad is not None


def test_torch_compile_gives_the_same_gradients() -> None:
    flat, x = moved(MemoryFlat(T.Logit(), *couplings(3))), torch.rand(5, 6)
    torch._dynamo.reset()
    compiled = torch.compile(flat, fullgraph=True, backend="eager")
    found = []
    for stack in (flat, compiled):
        flat.zero_grad()
        z, ladj = stack(x)
        (z.square().sum() - ladj.sum()).backward()
        found.append([p.grad.clone() for p in flat.parameters()])
    assert largest_difference(*found) < 1e-4


def test_a_second_derivative_is_refused() -> None:
    flat, x = moved(MemoryFlat(*couplings(2))), torch.randn(5, 6, requires_grad=True)
    (g,) = torch.autograd.grad(flat(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_each_network_runs_twice_a_step() -> None:
    flat, calls = moved(MemoryFlat(*couplings(3))), []
    for layer in flat:
        if isinstance(layer, Coupling):
            layer.net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    z, _ = flat(torch.randn(5, 6))
    assert calls == [False] * 3
    z.sum().backward()
    assert calls == [False] * 3 + [True] * 3


def test_foreign_storage_is_left_alone() -> None:
    flat = moved(image_stack(2))
    x = torch.randn(4, 3, 8, 8)
    flat.initialize(x)
    z, ladj = flat(x)
    grad_z, grad_ladj = torch.randn_like(z), torch.randn_like(ladj)
    mine = (x, z, ladj, grad_z, grad_ladj)
    before = [(t.detach().clone(), t.data_ptr(), t.untyped_storage().nbytes()) for t in mine]
    torch.autograd.backward((z, ladj), (grad_z, grad_ladj))
    for tensor, (value, pointer, size) in zip(mine, before):
        assert torch.equal(tensor, value) and tensor.data_ptr() == pointer and tensor.untyped_storage().nbytes() == size


@pytest.mark.parametrize("what", ["output", "parameter"])
def test_what_backward_needs_must_not_have_changed(what: str) -> None:
    flat = moved(MemoryFlat(*couplings(2)))
    z, _ = flat(torch.randn(5, 6))
    loss = z.square().sum()
    with torch.no_grad():
        (z if what == "output" else flat[0].bias).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class NoHook(Transform):
    """x^3 + x by a user who knows no hook."""

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x**3 + x, torch.log(3 * x * x + 1).flatten(1).sum(1)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        raise AssertionError("a checkpointed layer is not inverted")


def test_layers_without_the_hook_are_checkpointed_and_named() -> None:
    torch.manual_seed(0)
    inner = Compose(NoHook(), T.Reshape((2, 1), (2,)))
    twice = NoHook()
    stack = Compose(
        *couplings(1, 4), twice, T.Reshape((4,), (4, 1)), Split(inner, (4, 1), (2,)), twice, *couplings(1, 4)
    )
    flat, x = moved(MemoryFlat(*stack)).double(), torch.randn(5, 4, dtype=torch.float64)
    assert flat.checkpointed == ("transforms.3 NoHook", "transforms.5.inner.transforms.0 NoHook", "transforms.6 NoHook")
    assert "transforms.3 NoHook" in repr(flat)
    assert largest_difference(gradients(flat, x), gradients(Compose(*flat), x)) < 1e-10


class Shifted(ActNorm):
    """Another map than its parent's, whose hook would rebuild another input."""

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x + x**3, context, generator)


def test_the_hook_of_a_parent_with_another_map_is_out_of_force() -> None:
    layer = Shifted(4).double()
    layer.initialize(torch.randn(50, 4, dtype=torch.float64))
    flat, x = MemoryFlat(ActNorm(4).double(), layer), torch.randn(5, 4, dtype=torch.float64)
    assert flat.checkpointed == ("transforms.1 Shifted",)
    assert largest_difference(gradients(flat, x), gradients(Compose(*flat), x)) < 1e-10


def test_dropout_gets_the_same_random_numbers_twice() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4)) for _ in range(3)]
    flat, x = MemoryFlat(*(Coupling(net, swap=i % 2 == 1) for i, net in enumerate(nets))).double(), torch.randn(5, 4)
    assert len(flat.checkpointed) == 3
    found, states = [], []
    for stack in (flat, Compose(*flat)):
        torch.manual_seed(1)
        found.append(gradients(stack, x.double()))
        states.append(torch.get_rng_state())
    assert largest_difference(*found) < 1e-12 and torch.equal(*states)


def test_batch_norm_counts_a_batch_once() -> None:
    torch.manual_seed(0)
    flats = [MemoryFlat(Coupling(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)))) for _ in range(2)]
    flats[1].load_state_dict(flats[0].state_dict())
    x = torch.randn(9, 4)
    for stack in (flats[0], Compose(*flats[1])):
        stack(x)[0].square().sum().backward()
    for a, b in zip(flats[0].buffers(), flats[1].buffers(), strict=True):
        assert torch.equal(a, b)
    assert flats[0][0].net[1].track_running_stats
    assert largest_difference([p.grad for p in flats[0].parameters()], [p.grad for p in flats[1].parameters()]) < 1e-4


class Endless(Transform):
    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x, x.sum(1)


def test_an_evaluation_between_the_passes_changes_no_gradient() -> None:
    """The batch norms are those of training, again."""
    nets = [nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(2)]
    flat, x, gradients = MemoryFlat(*map(Coupling, nets)).double(), torch.randn(16, 4).double(), []
    for evaluated in (False, True):
        z, ladj = flat.train()(x)
        flat.train(not evaluated)
        gradients.append(torch.autograd.grad(z.square().sum() - ladj.sum(), list(flat.parameters())))
        assert all(net[1].training != evaluated for net in nets)
    assert all(map(torch.equal, *gradients))


def test_what_cannot_be_rebuilt_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"transforms\.1\.inner\.transforms\.0 Dequantize: it draws random numbers"):
        MemoryFlat(Flip(), Split(Compose(T.Dequantize(4)), (2,)))
    with pytest.raises(ValueError, match=r"transforms\.0 Endless: it has no inverse"):
        MemoryFlat(Endless())
    with pytest.raises(TypeError, match="got Linear"):
        MemoryFlat(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="tolerance > 0"):
        MemoryFlat(tolerance=0.0)


class Lossy(T.Scale):
    """Its inverse is 1 % off."""

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x, ladj = super().inverse(z)
        return 1.01 * x, ladj


def test_a_bad_reconstruction_is_noticed() -> None:
    flat, x = moved(MemoryFlat(ActNorm(3), Lossy(2.0), watch_every=2)), torch.randn(20, 3)
    x[:8] += 1
    assert flat.last_error is None
    for step in range(4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            flat(x)[0].sum().backward()
        assert len(caught) == (step % 2 == 0)
        assert all("more than 0.001" in str(warning.message) for warning in caught)
    assert flat.last_error == pytest.approx(0.01, rel=0.3)
    errors = {e.name: e.max_error for e in flat.reconstruction_error(x).layers}
    assert errors["1 Lossy"] > 0.01 > errors["0 ActNorm"]


def test_an_exact_stack_does_not_warn_even_on_zeros_and_no_rows() -> None:
    flat = moved(MemoryFlat(*couplings(2), watch_every=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (0, 1, 20):
            z, ladj = flat.eval()(torch.zeros(rows, 6))
            assert z.shape == (rows, 6) and ladj.shape == (rows,)
            (z.sum() + ladj.sum()).backward()


def test_the_state_dict_is_that_of_compose() -> None:
    flat, plain = moved(image_stack(1)), image_stack(1, Compose)
    plain.load_state_dict(flat.state_dict())
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(flat.eval()(x)[0], plain.eval()(x)[0])


def test_the_first_training_batch_initialises() -> None:
    flat, x = MemoryFlat(ActNorm(3), Flip()), 3 + 2 * torch.randn(50, 3)
    z, _ = flat(x)
    z.sum().backward()
    assert abs(z.mean()) < 1e-5 and flat[0].is_initialized and flat[0].bias.grad is not None


@pytest.mark.parametrize("kind", [MemoryFlat, Compose])
def test_memory_does_not_grow_with_depth(kind: type[Compose]) -> None:
    """A training step's peak, gradients of the parameters aside; the plain stack shows that the measure can tell."""
    few, many = (_peak_of_a_step(kind, steps) for steps in (4, 32))
    assert many < 1.15 * few if kind is MemoryFlat else many > 4 * few


def _peak_of_a_step(kind: type[Compose], steps: int) -> int:
    torch.manual_seed(0)
    stack = kind(*(layer for _ in range(steps) for layer in couplings(1, 16)))
    x = torch.randn(512, 16)
    stack.initialize(x)

    def step() -> None:
        stack.zero_grad()
        z, ladj = stack(x)
        (z.square().sum() - ladj.sum()).backward()

    return peak_bytes(step) - sum(4 * p.numel() for p in stack.parameters())


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    flat, x = _distributed_case()
    model = nn.parallel.DistributedDataParallel(flat)
    for _ in range(2):
        z, ladj = model(x[rank::2])
        (z.square().sum() - ladj.sum()).backward()
    torch.save([p.grad for p in flat.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _distributed_case() -> tuple[MemoryFlat, Tensor]:
    torch.manual_seed(0)
    return moved(MemoryFlat(*couplings(3))).eval().double(), torch.randn(8, 6, dtype=torch.float64)


def test_distributed_data_parallel() -> None:
    flat, x = _distributed_case()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (folder,), nprocs=2)
        first, second = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(2))
    z, ladj = Compose(*flat)(x)
    (z.square().sum() - ladj.sum()).backward()
    expected = [p.grad for p in flat.parameters()]  # two steps of the mean over two halves
    assert largest_difference(first, second) == 0 and largest_difference(first, expected) < 1e-10
