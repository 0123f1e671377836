"""adaLN alone, tokens of DiT-S and DiT-XL: layer norm, scaled and shifted by the row, forward, with tangents, backward.

Values of 16 events of 256 tokens of 384 channels and of 4 of 256 of 1152, in float32; one tangent of all three inputs,
or of the tokens alone, as a divergence wants it. Beside them SiLU and GELU (by tanh) of the same tokens with a tangent.
`python -m benchmarks --only modulated_norm` judges the bars; pytest gives the same calls to pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk.ops import activation_with_tangents, modulated_norm, modulated_norm_with_tangents
from pyflowk.ops.activations import ACTIVATIONS

from .report import COPY_NEW, OURS, Bar, Case, hand_over, never_slower_bar, ratio_bar

ON_REQUEST = False
OPS = ("activation_tangents", "modulated_norm")  # that it judges
SHAPES = {"4096x384": (16, 256, 384), "1024x1152": (4, 256, 1152)}
TASKS = ("forward", "with a tangent", "with a tangent of x", "forward + backward", "silu", "gelu_tanh")
EAGER, COMPILE, JVP, FORMULA = "eager", "torch.compile", "torch.compile, jvp", "torch.compile, by hand"
EPS = 1e-6


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        EAGER: "F.layer_norm(x) * (1 + scale) + shift, as DiT's authors write it; tangents by torch.func.jvp",
        COMPILE: "of the eager form, static shapes",
        JVP: "of torch.func.jvp around the eager form",
        FORMULA: "of the tangent written out: J dx (1 + scale) + n dscale + dshift; of act(x) and act'(x) dx",
    }


def eager(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The usual form."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def pushed(x: Tensor, scale: Tensor, shift: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Its tangent by forward-mode AD."""
    if len(tangents) == 1:
        return torch.func.jvp(lambda x: eager(x, scale, shift), (x,), tangents)
    return torch.func.jvp(eager, (x, scale, shift), tangents)


def by_hand(x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    """Its tangent written out."""
    centred = x - x.mean(-1, keepdim=True)
    rate = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)
    n = centred * rate
    image = rate * (dx - dx.mean(-1, keepdim=True) - n * (dx * n).mean(-1, keepdim=True)) * (1 + scale.unsqueeze(1))
    if more:
        image = image + n * more[0].unsqueeze(1) + more[1].unsqueeze(1)
    return n * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1), image


def ours(x: Tensor, scale: Tensor, shift: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
    """One call with a tangent."""
    return modulated_norm_with_tangents(x, scale, shift, *(t.unsqueeze(1) for t in tangents))


def with_gradient(f: Callable[..., Tensor], inputs: list[Tensor], dy: Tensor) -> Callable[[], object]:
    """Forward and backward for a given gradient of y."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    return lambda: torch.autograd.grad(f(*leaves), leaves, dy)


def case(task: str, size: str) -> Case:
    """One contest."""
    shape = SHAPES[size]
    generator = torch.Generator().manual_seed(0)
    x, dx = (torch.randn(shape, generator=generator) for _ in range(2))
    scale, shift, dscale, dshift = (torch.randn(shape[0], shape[2], generator=generator) for _ in range(4))
    compiled = torch.compile(eager, dynamic=False)
    variants: dict[str, Callable[[], object]]
    bars: list[Bar] = [never_slower_bar()]
    streams = 2
    if task == "forward":
        variants = {name: lambda f=f: f(x, scale, shift)
                    for name, f in ((OURS, modulated_norm), (EAGER, eager), (COMPILE, compiled))}  # fmt: skip
        variants[COPY_NEW] = x.clone
        bars.append(ratio_bar(2.2, COMPILE))
    elif task in ACTIVATIONS:
        act = ACTIVATIONS[task]
        plain = lambda: (act.value(x), act.slope(x) * dx)  # noqa: E731
        variants = {OURS: lambda: activation_with_tangents(x, dx.unsqueeze(1), task), EAGER: plain}
        variants |= {FORMULA: torch.compile(plain, dynamic=False), COPY_NEW: lambda: (x.clone(), dx.clone())}
        bars.append(ratio_bar(1.4, FORMULA))
        streams = 4
    elif task == "forward + backward":
        inputs = [x, scale, shift]
        variants = {name: with_gradient(f, inputs, dx)
                    for name, f in ((OURS, modulated_norm), (EAGER, eager), (COMPILE, compiled))}  # fmt: skip
    else:
        tangents = (dx, dscale, dshift) if task == "with a tangent" else (dx,)
        named = {OURS: ours, EAGER: pushed, JVP: torch.compile(pushed, dynamic=False),
                 FORMULA: torch.compile(by_hand, dynamic=False)}  # fmt: skip
        variants = {name: lambda f=f: f(x, scale, shift, *tangents) for name, f in named.items()}
        variants[COPY_NEW] = lambda: (x.clone(), dx.clone())
        bars.append(ratio_bar(1.5, JVP, FORMULA))
        streams = 4
    traffic = {name: streams * 4.0 * x.numel() for name in variants} if COPY_NEW in variants else {}
    return Case(f"{task}, {size}", variants, bars, traffic, grad="backward" in task)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for task in TASKS[:1] if quick else TASKS:
        for size in [*SHAPES][:1] if quick else SHAPES:
            yield case(task, size)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", (OURS, EAGER, COMPILE, JVP, FORMULA))
def test_modulated_norm(benchmark: Any, task: str, size: str, variant: str) -> None:
    hand_over(case(task, size), variant, benchmark)
