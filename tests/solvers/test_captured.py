"""What a CUDA graph can hold: on a pretended card nothing is read back, and no number comes over from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyflowk import zoo
from pyflowk.manifolds import Sphere
from pyflowk.ops import _router, modes
from pyflowk.paths import VP, CondOT
from pyflowk.solvers import Fixed, flower, karras_grid, manifold_odeint, masking, odeint, sdeint, uniform_grid
from tests.solvers.samplers import ALL


class Refused(Exception):
    """What no capture of a graph takes."""


class Captured(TorchDispatchMode):
    """The meta device is a card on which a graph is captured: its tensors have no values, so that whoever asks for one
    fails, and whoever copies numbers of the host to it is refused."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(part) if isinstance(t, Tensor)] for part in ((args, kwargs), out))
        numbers = [t for t in given if t.is_cpu and (t.dim() or "copy" in func.name())]  # one goes with a launch
        if numbers and any(t.is_meta for t in made):
            raise Refused(f"{func} of {tuple(numbers[0].shape)} numbers of the host")
        return out


class Written(TorchFunctionMode):
    """What torch makes of numbers of Python without telling of the copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and out.is_meta and not isinstance(args[0], Tensor):
            raise Refused(f"{func.__name__} of {args[0]}")
        return out


@contextmanager
def captured() -> Iterator[None]:
    """The package sees a card, a capture, and no mode that watches."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (modes, _router):
            patch.setattr(module, "modes_on_stack", lambda: 0)
        patch.setattr(Tensor, "is_cuda", property(lambda t: t.is_meta), raising=False)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with Captured(), Written():
            yield


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, device="meta")


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -t * y


SOLVES: dict[str, Callable[[], Tensor]] = {
    "a grid on the card": lambda: odeint(
        decay, noise(4, 3), torch.linspace(0, 1, 5, device="meta"), method="rk4", stepping=Fixed()
    ),
    "a grid of the host": lambda: odeint(decay, noise(4, 3), uniform_grid(4), method="rk4", stepping=Fixed(2)),
    "times of rows": lambda: odeint(decay, noise(2, 3), [[0.0, 1.0], [1.0, 0.0]], method="tsit5", stepping=Fixed(3)),
    "a tuple": lambda: odeint(
        lambda t, s: (s[1], -s[0]), (noise(4, 3), noise(4, 3)), [0.0, 1.0], method="midpoint", stepping=Fixed(2)
    )[0],
    "within the steps": lambda: odeint(
        decay, noise(4, 3), [0.0, 1.0], method="euler", stepping=Fixed(3, perturb=True)
    ),
    "adams": lambda: odeint(decay, noise(4, 3), [0.0, 1.0], method="adams3", stepping=Fixed(5)),
    "with noise": lambda: sdeint(decay, decay, noise(4, 3), [0.0, 1.0], method="heun", stepping=Fixed(3)),
    "on a sphere": lambda: manifold_odeint(
        lambda t, y: y.roll(1, 1), noise(4, 3), [0.0, 1.0], Sphere((3,)), method="rk4", stepping=Fixed(3)
    ),
    "flower": lambda: flower(
        decay, noise(4, 3), CondOT(), uniform_grid(3), noise(4, 3), masking(noise(3) > 0), noise=0.0
    ),
}  # fmt: skip
SOLVES |= {name: lambda walk=walk: walk(decay, noise(4, 3), VP(), karras_grid(3, VP())) for name, walk in ALL.items()}


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_of_known_steps_stays_on_the_card(name: str) -> None:
    with captured():
        found = SOLVES[name]()
    assert found.is_meta and found.shape[-1] == 3


SAMPLES: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "a perceptron in one call": ((3,), {"width": 4, "depth": 1}, {"method": "rk4", "steps": 2}),
    "a convolution": ((1, 4, 4), {"architecture": "image", "width": 2, "depth": 1, "levels": 5}, {"steps": 2}),
    "guided": ((3,), {"classes": 2, "dropout": 0.1, "width": 4}, {"guidance": 1.0, "grid": "cosine", "steps": 2}),
    "a sampler": ((3,), {"path": "vp", "prediction": "noise", "width": 4}, {"method": "ddpm", "steps": 2}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_in_known_steps_stay_on_the_card(name: str) -> None:
    shape, settings, options = SAMPLES[name]
    with torch.device("meta"):
        model = zoo.create("flow_matching", shape, **settings).eval()
    with captured():
        context = torch.zeros(4, dtype=torch.int64, device="meta") if "classes" in settings else None
        assert model.sample(4, context, **options).is_meta


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + torch.ones(3),
        lambda x: x + torch.tensor(1.0).to("meta"),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device="meta"),
        lambda x: x.to("cpu"),
        lambda x: x.sum().item(),
        lambda x: x if (x > 0).any() else -x,
        lambda x: x[x > 0],
    ],
)
def test_a_planted_fault_is_found(fault: Callable[[Tensor], object]) -> None:
    with captured(), pytest.raises((Refused, RuntimeError)):
        fault(noise(4, 3))
