"""No result depends on what was remembered of other weights: every owner, every way of writing weights."""

from __future__ import annotations

import ast
import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyflowk
from pyflowk import zoo
from pyflowk.compat import accelerate
from pyflowk.nets import MADE, SpectralConv2d
from pyflowk.nets.spectral import SpectralLayer
from pyflowk.ops.kept import Kept
from pyflowk.training.ema import MovingAverage
from pyflowk.transforms import ActNorm, InvertibleConv1x1
from tests.compat.test_accelerate import CASES as FLOWS
from tests.transforms.registry import CASES as TRANSFORMS
from tests.zoo.test_systems import SEQUENCES, SMALL, build, context, data, seeded

# ---- who remembers ---------------------------------------------------------------------------------------------------


def keeps(module: nn.Module) -> bool:
    """Whether it, or a part of it, remembers something of its weights."""
    parts = list(module.modules())
    return any(isinstance(value, Kept) for part in parts for value in vars(part).values())


class Owner:
    """A model: how it is made, how a model without any memory is made of its state, and all that it computes."""

    def __init__(
        self, build: Callable[[], Any], evaluate: Callable[[Any], list[Tensor]], plain: Callable[[], Any] | None = None
    ) -> None:
        self.build, self._evaluate, self._plain = build, evaluate, plain or build

    def fresh(self, state: dict[str, Tensor]) -> Any:
        model = self._plain()
        model.load_state_dict(state)
        return model

    def evaluate(self, model: Any) -> list[Tensor]:
        """In evaluation mode, and before in training mode where that has a state of its own."""
        with torch.no_grad():
            found = self._evaluate(model.train()) if spectral(model) else []
            return found + self.serve(model)

    @torch.no_grad()
    def serve(self, model: Any) -> list[Tensor]:
        return self._evaluate(model.eval())


def spectral(model: nn.Module, kind: type = SpectralLayer) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


def of_system(name: str) -> Owner:
    def evaluate(model: zoo.GenerativeModel) -> list[Tensor]:
        x, c = data(model, 5), context(model, 5)
        return [model.loss(x, c, seeded()), *([] if model.training else [model.sample(5, c, seeded())])]

    return Owner(partial(build, name), evaluate)


def of_transform(case: Any) -> Owner:
    def evaluate(transform: Any) -> list[Tensor]:
        x, c = case.data(5, dtype=torch.float32), case.contexts(5, dtype=torch.float32)
        z, ladj = transform(x, c, seeded())
        return [z, ladj, *([] if transform.training else transform.inverse(x, c, seeded()))]

    return Owner(case.make, evaluate)


def of_flow(case: Any) -> Owner:
    def evaluate(flow: Any) -> list[Tensor]:
        return [case.log_prob(flow, case.x(), case.c()), *case.sample(flow, 6, case.c())]

    return Owner(lambda: accelerate(case.flow()), evaluate, case.flow)


def smallest(name: str) -> str:
    return min(
        (math.prod(shape), key) for key, (system, shape, _) in SMALL.items() if system == name and shape != (1,)
    )[1]


OWNERS: dict[str, Owner] = {
    **{f"zoo-{name}": of_system(smallest(name)) for name in zoo.names() if name not in SEQUENCES},
    **{f"transform-{case.name}": of_transform(case) for case in TRANSFORMS if keeps(case.build())},
    **{f"accelerated-{name}": of_flow(case) for name, case in FLOWS.items()},
}

# ---- ways of writing weights -----------------------------------------------------------------------------------------


def noise(p: Tensor, size: float = 0.02) -> Tensor:
    return size * torch.randn(p.shape, generator=seeded(p.numel())).to(p)


def optimiser(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[Any], Any]:
    """Three steps along made-up gradients."""

    def change(model: Any) -> Any:
        steps = kind(model.parameters(), lr=0.01, **options)
        for _ in range(3):
            for p in model.parameters():
                p.grad = noise(p, 1.0)
            steps.step()
        steps.zero_grad()
        return model

    return change


def each(write: Callable[[Tensor], Any], recorded: bool = False) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        with torch.set_grad_enabled(recorded):
            for p in model.parameters():
                write(p)
        return model

    return change


def replace_data(p: Tensor) -> None:
    p.data = p.data + noise(p)


def by_numpy(p: Tensor) -> None:
    p.detach().numpy()[...] += noise(p).numpy()


def by_vector(model: Any) -> Any:
    """Twice, so that memory is used again."""
    for _ in range(2):
        vector = torch.cat([(p.detach() + noise(p)).reshape(-1) for p in model.parameters()])
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
    return model


def by_load(model: Any, assign: bool = False) -> Any:
    learned = dict(model.named_parameters())
    for step in (0.02, -0.05):
        state = {k: v + noise(v, step) if k in learned else v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state, assign=assign)
    return model


def swapped(model: Any) -> Any:
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() + noise(p)))
    return model


def there_and_back(model: Any) -> Any:
    dtype = next(model.parameters()).dtype
    return each(by_numpy)(model.to(torch.float64)).to(dtype)


def averaged(model: Any) -> Any:
    average = MovingAverage(model, 0.5)
    for _ in range(2):
        each(by_numpy)(model)
        average.update()
    return average.module.requires_grad_(True)


WAYS: dict[str, Callable[[Any], Any]] = {
    "in place": each(lambda p: p.add_(noise(p))),
    "Adam, fused": optimiser(torch.optim.Adam, fused=True),
    "AdamW, fused": optimiser(torch.optim.AdamW, fused=True),
    "SGD, fused": optimiser(torch.optim.SGD, fused=True),
    "Adam, foreach": optimiser(torch.optim.Adam, foreach=True),
    "data in place": each(lambda p: p.data.add_(noise(p)), recorded=True),
    "data replaced": each(replace_data, recorded=True),
    "data copied": each(lambda p: p.data.copy_(p.data + noise(p)), recorded=True),
    "numpy": each(by_numpy),
    "init": each(lambda p: nn.init.normal_(p, std=0.1)),
    "init of data": each(lambda p: nn.init.uniform_(p.data, -0.1, 0.1), recorded=True),
    "vector_to_parameters": by_vector,
    "load_state_dict": by_load,
    "load_state_dict, assign": partial(by_load, assign=True),
    "other parameters": swapped,
    "a copy": lambda model: each(by_numpy)(copy.deepcopy(model)),
    "float64 and back": there_and_back,
    "moving average": averaged,
}


FEW = ("AdamW, fused", "numpy", "load_state_dict, assign")  # where nothing is kept, or one call takes seconds


@pytest.mark.parametrize("name", OWNERS)
def test_a_result_is_that_of_a_fresh_model(name: str) -> None:
    owner = OWNERS[name]
    model = owner.build()
    before = owner.evaluate(model)
    for way in WAYS if keeps(model) and not spectral(model, SpectralConv2d) else FEW:
        model = WAYS[way](model)
        fresh = owner.fresh({key: value.clone() for key, value in model.state_dict().items()})
        after, expected = owner.evaluate(model), owner.evaluate(fresh)
        errors, moves = ([float((a - b).abs().max()) for a, b in zip(after, other)] for other in (expected, before))
        assert max(errors) < 1e-5 * max(1, max(float(a.abs().max()) for a in after)), f"{way}: {errors}"
        assert max(moves) > 1e-3, f"{way} changed nothing: {moves}"
        before = after


@pytest.mark.parametrize("name", OWNERS)
def test_what_is_kept_is_no_memory_of_others(name: str) -> None:
    """Tensors of the same bits take the place of the parameters, which then change: no part of a result is theirs."""
    owner = OWNERS[name]
    model = owner.build()
    each(by_numpy)(model)
    expected, earlier = owner.serve(model), list(model.parameters())
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    for p in earlier:
        p.data.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(owner.serve(model), expected, strict=True))


@pytest.mark.parametrize("name", OWNERS)
def test_a_frozen_model_serves_as_the_model_did(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = OWNERS[name]
    model = owner.build().eval()
    expected, state = owner.serve(model), {k: v.clone() for k, v in model.state_dict().items()}
    served = pyflowk.frozen(model)
    assert type(served) is type(model) and not list(served.parameters()) and len(list(model.parameters()))
    each(by_numpy)(model)
    monkeypatch.setattr("pyflowk.ops.kept.backends", {})  # whoever looks at a weight fails
    for again in (served, copy.deepcopy(served), pickled(served), served.double().to(expected[0].dtype)):
        assert all(torch.equal(a, b) for a, b in zip(owner.serve(again), expected, strict=True))
        assert all(torch.equal(again.state_dict()[k], v) for k, v in state.items())
        with pytest.raises(RuntimeError, match="stays in evaluation mode"):
            again.train()
        with pytest.raises(RuntimeError, match="keeps its weights"):
            again.load_state_dict(state)


def pickled(model: Any) -> Any:
    try:
        return pickle.loads(pickle.dumps(model))
    except (AttributeError, pickle.PicklingError):  # zuko's activations and nflows' closures
        if type(model).__module__.startswith("pyflowk."):
            raise
        return model


ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "made": lambda device: MADE(4, hidden=(8,)).to(device)._packed_weights,
    "plu": lambda device: partial(InvertibleConv1x1(3, norm=ActNorm(3)).to(device)._map, True),
    "householder": lambda device: partial(InvertibleConv1x1(3, "householder").to(device)._map, True),
    "masked": lambda device: masked_network(device),
}


def masked_network(device: str) -> Callable[[], Tensor]:
    flow = accelerate(FLOWS["nflows-maf"].flow()).to(device)
    layer = next(module for module in flow.modules() if hasattr(module, "pyflowk"))
    network = [m for m in layer.autoregressive_net.modules() if hasattr(m, "mask")]
    return partial(layer.pyflowk._packed, [(m.weight, m.bias) for m in network])


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_on_another_device_nothing_is_waited_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device any look at a value raises; what is made there is made at every call."""
    make = ELSEWHERE[kind]("meta")
    monkeypatch.setattr("pyflowk.ops.kept.backends", {})
    with torch.no_grad():
        first, second = make(), make()
    pairs = [(first, second)] if isinstance(first, Tensor) else zip(first, second, strict=True)
    assert all(a is None or (a.is_meta and a is not b) for a, b in pairs)


def test_nothing_is_known_by_its_address_or_version() -> None:
    """The words by which a cache would know a tensor, and who may say them: those who look twice within one call, a
    loop in C++ that is handed addresses, compiled functions, known by their code, and tokenizers, by their text."""
    allowed = {
        "_version": {"recompute.py", "events.py", "checked.py"}, "data_ptr": {"checked.py", "kept.py", "rowwise.py"},
        "WeakKeyDictionary": {"compiled.py"}, "lru_cache": {"alphabet.py"},
    }  # fmt: skip
    for path in Path(pyflowk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            if word in ("_version", "data_ptr", "lru_cache", "cache", "WeakKeyDictionary"):
                assert path.name in allowed.get(word, ()), f"{path}:{node.lineno} says {word}"  # type: ignore[attr-defined]
