"""One list of transforms for every generic test: who adds a transform adds a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyflowk import transforms as T
from pyflowk.nets import (
    MADE,
    MLP,
    CausalNetwork,
    CausalTransformer,
    ConvField,
    LipschitzConvNet,
    LipschitzMLP,
    MLPField,
    ResidualConvNet,
)
from pyflowk.ops.masks import transformed_channels
from pyflowk.solvers import Backprop, Fixed


@dataclass(frozen=True)
class Case:
    """A transform, the events it takes and what may be asked of it."""

    name: str
    build: Callable[[], T.Transform]
    shape: tuple[int, ...]
    domain: str = "real"  # or "unit" (0, 1), or "integer" 0..4
    context: str = "none"  # or "labels" 0..2, or "vector" (B, 3): what it depends on
    networks: bool = False
    smooth_inverse: bool = True
    traces: bool = True  # into one graph, in a time that a test may take and not just as another case does

    def make(self, seed: int = 0) -> T.Transform:
        """The transform in evaluation mode, every parameter and statistic moved away from its start."""
        torch.manual_seed(seed)
        transform = self.build().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in transform.parameters():
                fan_in = max(1, p[:1].numel()) if p.dim() > 1 else 1
                p += 0.5 * torch.randn(p.shape, generator=generator) / fan_in**0.5
        return transform

    def data(self, n: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.domain == "integer":
            return torch.randint(0, 5, (n, *self.shape), generator=generator).to(dtype)
        if self.domain == "unit":
            return (0.02 + 0.96 * torch.rand((n, *self.shape), generator=generator, dtype=torch.float64)).to(dtype)
        return torch.randn((n, *self.shape), generator=generator, dtype=torch.float64).to(dtype)

    def contexts(self, n: int, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor | None:
        generator = torch.Generator().manual_seed(seed)
        if self.context == "labels":
            return torch.randint(0, 3, (n,), generator=generator)
        if self.context == "vector":
            return torch.randn((n, 3), generator=generator, dtype=torch.float64).to(dtype)
        return None


def sinh_asinh(x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y = sinh(e^a asinh(x) + b): a map that knows no masks, as a user may bring along."""
    a, b = params.chunk(2, dim=1)
    a = torch.tanh(a)
    u = torch.asinh(x)
    v = (u - b) * torch.exp(-a) if inverse else u * torch.exp(a) + b
    slope = torch.log(torch.cosh(v)) - 0.5 * torch.log1p(x * x) + (-a if inverse else a)
    return torch.sinh(v), slope


def _fitted(transform: T.Transform, shape: tuple[int, ...]) -> T.Transform:
    transform.initialize(2 + 3 * torch.randn((50, *shape)))
    return transform


def _coupling(size: int, mask: str, swap: bool, map: nn.Module, **context: int) -> T.Coupling:
    moved = transformed_channels(size, mask, swap)
    net = MLP(0 if mask == "all" else size - moved, map.params_per_element * moved, 16, 1, "tanh", **context)
    return T.Coupling(net, map, mask, swap)


def _image_coupling(channels: int, mask: str, swap: bool, map: nn.Module, **context: int) -> T.Coupling:
    moved = transformed_channels(channels, mask, swap)
    seen = channels if mask == "checkerboard" else channels - moved
    net = ResidualConvNet(seen, map.params_per_element * moved, 8, 1, "silu", **context)
    return T.Coupling(net, map, mask, swap)


def _residual(estimator: T.Exact | T.Truncated | T.Roulette, **options: Any) -> T.Residual:
    return T.Residual(LipschitzMLP(4, 12, 1, lipschitz=0.5, **options), estimator, estimator, exact_dims=0)


def _residual_image() -> T.Residual:
    net = LipschitzConvNet(2, (3, 2), 6, 0.5, "tanh", (3, 3), context_dim=3)
    return T.Residual(net, T.Exact(), T.Exact())


class Rotation(nn.Module):
    """0.5 R sin(x), R orthogonal: a branch as a user may bring along."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.sin(x).flip(1)


def _continuous(field: nn.Module, steps: int) -> T.Transform:
    """Through the solver; torch.func does not go through checkpoints."""
    return T.Continuous(field, method="dopri8", stepping=Fixed(steps), adjoint=Backprop())


def _autoregressive(map: nn.Module, features: int, **options: Any) -> T.MaskedAutoregressive:
    return T.MaskedAutoregressive(MADE(features, map.params_per_element, **{"hidden": (12, 12), **options}), map)


class Before(CausalNetwork):
    """The token before, bent, for a map with one parameter: a network as a user may bring along."""

    params_per_element = 1
    takes_context = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.sin(x[:, :-1])


def _causal_maps() -> dict[str, Callable[[], T.Transform]]:
    def net(k: int = 2, **options: Any) -> CausalTransformer:
        return CausalTransformer(3, 4, k, 8, 1, 2, **options)

    modern: dict[str, Any] = {"norm": "rms", "gated": True, "qk_norm": True, "kv_heads": 1}
    return {
        "affine": lambda: T.Causal(net()),
        "flip-labels": lambda: T.Causal(net(classes=3), T.Affine(interleaved=True), flip=True),
        "rotary-start": lambda: T.Causal(
            net(positions="rotary", grid=(2, 2), start=True, **modern), T.SoftplusAffine()
        ),
        "prefix-vector": lambda: T.Causal(net(positions="both", prefix=2, context_dim=3)),
        "additive": lambda: T.Causal(net(1), T.Additive(), flip=True),
        "spline": lambda: T.Causal(net(14, start=True), T.RationalQuadratic(5, 2.0, interleaved=True)),
        "any": lambda: T.Causal(Before(), T.Additive()),
        "guided-labels": lambda: T.Causal(net(classes=3, droppable=True)).guided(0.3, "product", rising=True),
    }


def _multiscale() -> T.Transform:
    top = T.Compose(T.ActNorm(2), _image_coupling(2, "checkerboard", False, T.Affine()), T.Reshape((2, 2, 2), (8,)))
    return T.Compose(T.Squeeze(), _image_coupling(4, "channel", True, T.Affine()), T.Split(top, (4, 2, 2), (8,)))


def _autoregressive_maps() -> dict[str, Callable[[], T.Transform]]:
    return {
        "affine": lambda: _autoregressive(T.Affine(), 5, activation="tanh"),
        "affine-one-dim": lambda: _autoregressive(T.Affine(), 1),
        "affine-residual-labels": lambda: _autoregressive(
            T.Affine("sigmoid"), 5, hidden=(9, 9, 9), residual=True, order=[3, 0, 4, 1, 2], classes=3
        ),
        "interleaved-vector": lambda: _autoregressive(
            T.Affine("none", interleaved=True), 5, order="reversed", context_dim=3, interleaved=True
        ),
        "spline-labels": lambda: _autoregressive(
            T.RationalQuadratic(4, 2.0, tails="bounded", interleaved=True),
            5,
            interleaved=True,
            classes=3,
            activation="tanh",
        ),
        "additive": lambda: _autoregressive(T.Additive(), 5, degrees=[[4, 1, 2, 3], [2, 2, 4]], hidden=(4, 3)),
        "no-kernel-labels": lambda: _autoregressive(T.Affine(), 5, activation="gelu", classes=3, order="reversed"),
        "elementwise-vector": lambda: _autoregressive(
            T.Elementwise(sinh_asinh, 2), 5, hidden=(9, 9, 9), residual=True, order=[3, 0, 4, 1, 2], context_dim=3
        ),
        "inverse": lambda: T.Invert(_autoregressive(T.Affine(), 5, activation="silu")),
    }


def _cases() -> list[Case]:
    cases = [
        Case("compose-empty", lambda: T.Compose(), (3,)),
        Case("compose", lambda: T.Compose(T.Scale(2.0), T.Compose(T.Flip(), T.ActNorm(3))), (3,)),
        Case("invert", lambda: T.Invert(T.Compose(T.ActNorm(3), T.Scale(-0.5, 1.0))), (3,)),
        Case("permute", lambda: T.Permute([2, 0, 1, 3]), (4,)),
        Case("permute-random-image", lambda: T.Permute.random(5), (5, 2, 2)),
        Case("flip", lambda: T.Flip(), (3, 2)),
        Case("reshape", lambda: T.Reshape((2, 3), (6,)), (2, 3)),
        Case("patches", lambda: T.Patches((2, 2, 4), 2), (2, 2, 4)),
        Case("gaussian-noise", lambda: T.GaussianNoise(0.1), (3,)),
        Case("squeeze", lambda: T.Squeeze(), (3, 2, 4)),
        Case("split", lambda: T.Split(T.ActNorm(2), (5, 2)), (5, 2)),
        Case("actnorm-vector", lambda: T.ActNorm(4), (4,)),
        Case("actnorm-image", lambda: T.ActNorm(2), (2, 3, 2)),
        Case("conv1x1-plu", lambda: T.InvertibleConv1x1(4), (4, 3, 3)),
        Case("conv1x1-dense", lambda: T.InvertibleConv1x1(3, "dense"), (3, 2, 4)),
        Case("conv1x1-householder", lambda: T.InvertibleConv1x1(3, "householder"), (3, 2, 2)),
        Case("conv1x1-norm", lambda: T.InvertibleConv1x1(3, norm=T.ActNorm(3)), (3, 2, 2)),
        Case("lu-linear", lambda: T.LULinear(5), (5,)),
        Case("lu-linear-norm", lambda: T.LULinear(2, "householder", norm=T.ActNorm(2)), (2,)),
        Case("batchnorm", lambda: _fitted(T.BatchNorm(4), (4,)), (4,)),
        Case("scale", lambda: T.Scale(-1 / 3, 0.5), (2, 3)),
        Case("standardize", lambda: _fitted(T.Standardize((2, 3)), (2, 3)), (2, 3)),
        Case("logit", lambda: T.Logit(0.05), (4,), domain="unit"),
        Case("logit-no-margin", lambda: T.Logit(0.0), (2, 2), domain="unit"),
        Case("dequantize", lambda: T.Dequantize(5), (4,), domain="integer", smooth_inverse=False),
        Case(
            "dequantize-chain",
            lambda: T.Compose(T.Dequantize(5), T.Scale(1 / 5), T.Logit(0.05), T.ActNorm(4)),
            (4,),
            domain="integer",
            smooth_inverse=False,
        ),
        Case(
            "variational-dequantize",
            lambda: T.VariationalDequantize(5, _coupling(4, "all", False, T.Affine(), context_dim=4)),
            (4,),
            domain="integer",
            smooth_inverse=False,
        ),
        Case("multiscale", _multiscale, (1, 4, 4), networks=True),
        Case("memory-flat", lambda: T.MemoryFlat(*_multiscale()), (1, 4, 4), networks=True),
        Case("coupling-one-dim", lambda: _coupling(1, "half", False, T.Affine()), (1,), networks=True),
        Case("coupling-one-dim-swap", lambda: _coupling(1, "half", True, T.Affine()), (1,), networks=True),
        Case(
            "coupling-labels", lambda: _coupling(4, "half", False, T.Affine(), classes=3), (4,), context="labels",
            networks=True,
        ),
        Case(
            "coupling-all-vector", lambda: _coupling(3, "all", False, T.Affine("none"), context_dim=3), (3,),
            context="vector", networks=True,
        ),
        Case(
            "coupling-image-labels", lambda: _image_coupling(2, "checkerboard", False, T.Affine(), classes=3),
            (2, 3, 3), context="labels", networks=True,
        ),
        Case(
            "coupling-image-vector", lambda: _image_coupling(3, "channel", False, T.Additive(), context_dim=3),
            (3, 2, 2), context="vector", networks=True,
        ),
        Case("residual", lambda: _residual(T.Exact()), (4,), networks=True),
        Case(
            "residual-labels", lambda: _residual(T.Exact(), activation="elu", classes=3), (4,), context="labels",
            networks=True,
        ),
        Case("residual-image", _residual_image, (2, 3, 2), context="vector", networks=True),
        Case(
            "residual-any",
            lambda: T.Residual(Rotation(), T.Exact(), T.Exact(), lipschitz=0.5, conditional=False), (3,), networks=True,
        ),
        Case("residual-truncated", lambda: _residual(T.Truncated(3)), (4,), networks=True),
        Case("residual-roulette", lambda: _residual(T.Roulette()), (4,), networks=True),
        Case(
            "residual-chain", lambda: T.Compose(T.ActNorm(4), _residual(T.Exact()), T.Invert(_residual(T.Exact()))),
            (4,), networks=True,
        ),
        Case(
            "continuous-fused", lambda: T.Continuous(MLPField(3, 8, 2), method="rk4", stepping=Fixed(40)), (3,),
            networks=True,
        ),
        Case(
            "continuous-labels",
            lambda: T.Continuous(MLPField(2, 8, 1, "silu", "concat", classes=3), method="rk4", stepping=Fixed(40)),
            (2,), context="labels", networks=True,
        ),
        Case(
            "continuous-solver-vector",
            lambda: _continuous(MLPField(2, 8, 2, "sin", context_dim=3), 3), (2,),
            context="vector", traces=False, networks=True,
        ),
        Case(
            "continuous-image", lambda: _continuous(ConvField(1, 4, 1), 2), (1, 2, 2),
            traces=False, networks=True,
        ),
    ]  # fmt: skip
    for name, build in _autoregressive_maps().items():
        context = "labels" if "labels" in name else "vector" if "vector" in name else "none"
        cases.append(Case(f"maf-{name}", build, (1,) if "one" in name else (5,), context=context, networks=True))
    for name, build in _causal_maps().items():
        context = "labels" if "labels" in name else "vector" if "vector" in name else "none"
        traces = name in ("affine", "rotary-start", "guided-labels")
        cases.append(Case(f"causal-{name}", build, (4, 3), context=context, traces=traces, networks=True))
    maps: dict[str, Callable[[], nn.Module]] = {
        "affine": T.Affine,
        "sigmoid-interleaved": lambda: T.Affine("sigmoid", interleaved=True),
        "additive": T.Additive,
        "elementwise": lambda: T.Elementwise(sinh_asinh, 2),
        "spline": lambda: T.RationalQuadratic(5, 2.0, min_width=0.05, min_height=0.05, min_slope=0.1),
        "spline-circular-interleaved": lambda: T.RationalQuadratic(
            3, interval=(-1.0, 2.0), tails="circular", interleaved=True
        ),
    }
    for name, map in maps.items():
        for swap in (False, True):
            for mask in ("half", "alternating"):
                build = lambda m=map, k=mask, s=swap: _coupling(5, k, s, m())  # noqa: E731
                traces = name == "affine" or (mask == "half" and not swap)
                cases.append(Case(f"coupling-{name}-{mask}-{swap}", build, (5,), networks=True, traces=traces))
            build = lambda m=map, s=swap: _image_coupling(2, "checkerboard", s, m())  # noqa: E731
            traces = name in ("affine", "spline") and not swap
            cases.append(Case(f"coupling-{name}-checkerboard-{swap}", build, (2, 2, 3), networks=True, traces=traces))
    return cases


CASES = _cases()
