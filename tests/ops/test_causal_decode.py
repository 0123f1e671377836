"""causal_decode: kernel against formula in every form, rows by themselves, NaN, threads, gradients, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import Lead, TransformerSizes, causal_decode, pack_transformer

SIZES = {
    "plain": TransformerSizes(8, 2, 2, 32, 1),
    "modern": TransformerSizes(24, 4, 2, 40, 2, norm=1, gated=True, qk_norm=True),
    "wide": TransformerSizes(80, 1, 1, 200, 1),
}


def shapes(sizes: TransformerSizes, features: int, out: int) -> list[tuple[int, ...]]:
    """Those of the weights, in their order."""
    width, d, up = sizes.width, sizes.width // sizes.heads, (1 + sizes.gated) * sizes.hidden
    norm: list[tuple[int, ...]] = [(width,)] if sizes.norm else [(width,), (width,)]
    gains: list[tuple[int, ...]] = [(d,), (d,)] if sizes.qk_norm else []
    layer = [*norm, (sizes.qkv, width), (sizes.qkv,), *gains, (width, width), (width,)]
    layer += [*norm, (up, width), (up,), (width, sizes.hidden), (width,)]
    return [(width, features), (width,), *layer * sizes.depth, *norm, (out, width), (out,)]


def arguments(
    sizes: TransformerSizes, rows: int, tokens: int, features: int, front: int = 0, *, bound: str = "none",
    shifted: bool = False, placed: bool = True, turned: bool = False, rule: str | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
    """Positional and other arguments of a call."""
    seen, width, generator = front + tokens - 1, sizes.width, torch.Generator().manual_seed(rows + 13 * tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def lead() -> Lead:
        return Lead(noise(rows, front, width), noise(rows, width if shifted else 0))

    out = features * (1 if bound == "additive" else 2)
    parameters = [noise(*s) * (0.5 / s[1] ** 0.5 if len(s) == 2 else 0.3) for s in shapes(sizes, features, out)]
    angles = noise(seen, width // sizes.heads // 2)
    given = (
        noise(rows, tokens, features), lead(), noise(seen, width) if placed else noise(0, 0),
        torch.stack((angles.cos(), angles.sin())) if turned else noise(2, 0, 0), pack_transformer(parameters), sizes,
    )  # fmt: skip
    more: dict[str, Any] = {"bound": bound, "limit": 2.0}
    if rule is not None:
        more |= {
            "rule": rule,
            "weak": lead(),
            "guides": torch.linspace(0, 1.5, tokens, dtype=dtype),
            "temperature": 0.6,
        }
    return given, more


CALLS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "plain": ("plain", (5, 3, 2), {}),
    "past-a-block": ("plain", (3, 70, 1, 1), {"bound": "tanh"}),
    "past-a-tile": ("plain", (35, 2, 3, 1), {"placed": False, "shifted": True}),
    "modern": ("modern", (4, 20, 3, 2), {"bound": "sigmoid", "shifted": True, "turned": True}),
    "wide": ("wide", (2, 4, 40), {"placed": False}),
    "additive": ("plain", (4, 4, 3, 1), {"bound": "additive"}),
    "softplus": ("plain", (4, 5, 3, 1), {"bound": "softplus", "rule": "product"}),
    "log_scale": ("plain", (20, 5, 2, 1), {"bound": "tanh", "rule": "log_scale", "shifted": True}),
    "scale": ("modern", (5, 4, 2), {"rule": "scale", "turned": True}),
    "product": ("plain", (5, 4, 2), {"rule": "product", "shifted": True}),
    "one-token": ("plain", (3, 1, 2, 1), {}),
    "no-rows": ("plain", (0, 3, 2), {}),
}
calls = pytest.mark.parametrize("call", CALLS)


def made(call: str, dtype: torch.dtype = torch.float64, rows: int | None = None) -> tuple[tuple[Any, ...], Any]:
    sizes, (own, *shape), options = CALLS[call]
    return arguments(SIZES[sizes], own if rows is None else rows, *shape, dtype=dtype, **options)


@calls
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_kernel_and_formula_agree(call: str, dtype: torch.dtype, tolerance: float) -> None:
    given, more = made(call, dtype)
    with pyflowk.backend("cpu"):
        x, ladj = causal_decode(*given, **more)
    with pyflowk.backend("reference"):
        expected = causal_decode(*given, **more)
    assert x.shape == given[0].shape and ladj.shape == given[0].shape[:1] and x.dtype == ladj.dtype == dtype
    for found, right in zip((x, ladj), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("call", ["past-a-tile", "modern", "log_scale"])
def test_rows_know_nothing_of_each_other_nor_of_threads(call: str) -> None:
    """Bitwise; a NaN stays in its row, and in the tokens behind it."""
    given, more = made(call, torch.float32)

    def some(rows: slice) -> tuple[Tensor, Tensor]:
        part = {**more, **({"weak": Lead(*(t[rows] for t in more["weak"]))} if "weak" in more else {})}
        return causal_decode(given[0][rows], Lead(*(t[rows] for t in given[1])), *given[2:], **part)

    whole = some(slice(None))
    for rows in (slice(0, 1), slice(2, 3), slice(1, 4), slice(len(given[0]) - 1, None)):
        for part, of in zip(some(rows), whole, strict=True):
            assert torch.equal(part, of[rows])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(some(slice(None)), whole, strict=True))
    finally:
        torch.set_num_threads(threads)
    given[0][1, 1, 0] = float("nan")
    x, ladj = some(slice(None))
    assert torch.equal(x[1, 0], whole[0][1, 0]) and x[1, 1, 0].isnan() and (x.shape[1] < 3 or x[1, 2].isnan().all())
    others = torch.arange(len(x)) != 1
    assert torch.equal(x[others], whole[0][others]) and torch.equal(ladj[others], whole[1][others])


def test_any_strides() -> None:
    given, more = made("log_scale")
    expected = causal_decode(*given, **more)

    def strided(t: Tensor) -> Tensor:
        return torch.stack((t, t), -1)[..., 0]

    z, lead, *rest, sizes = given
    apart = (strided(z), Lead(*map(strided, lead)), *map(strided, rest), sizes)
    more = {**more, "weak": Lead(*map(strided, more["weak"])), "guides": strided(more["guides"])}
    assert all(torch.equal(a, b) for a, b in zip(causal_decode(*apart, **more), expected, strict=True))


def test_gradients_go_through_the_formula() -> None:
    (z, lead, places, rotation, weights, sizes), more = made("product")
    inputs = [t.requires_grad_() for t in (z, *lead, places, weights)]
    for found in causal_decode(z, lead, places, rotation, weights, sizes, **more):
        gradients = torch.autograd.grad(found.square().sum(), inputs, retain_graph=True, allow_unused=True)
        assert all(g is not None and g.isfinite().all() for g in (gradients[0], gradients[-1]))
    batched = torch.func.vmap(lambda z: causal_decode(z, lead, places, rotation, weights, sizes, **more)[0])
    torch.testing.assert_close(
        batched(torch.stack((z, z)))[1], causal_decode(z, lead, places, rotation, weights, sizes, **more)[0]
    )


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"z": torch.zeros(5, 3, 2, dtype=torch.bfloat16)}, TypeError, "z must be float32 or float64; got"),
        ({"z": torch.zeros(5, 6, dtype=torch.float64)}, ValueError, r"z must be \(B, T, D\); got \(5, 6\)"),
        ({"z": torch.zeros(5, 4, 2, dtype=torch.float64)}, ValueError, r"places must be \(3, 8\); got \(2, 8\)"),
        ({"z": torch.zeros(5, 1, 2, dtype=torch.float64)}, ValueError, "expected 2 tokens or more .*; got 1"),
        ({"places": torch.zeros(2, 8)}, TypeError, "places must be .*float64; got .*float32"),
        ({"weights": torch.zeros(9, dtype=torch.float64)}, ValueError, r"weights must be \(.*,\); got \(9,\)"),
        ({"sizes": TransformerSizes(8, 3, 3, 32, 1)}, ValueError, "sizes must be the width, heads that divide it"),
    ],
)  # fmt: skip
def test_what_does_not_fit(backend: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    given, _ = made("plain")
    whole = {**dict(zip(("z", "lead", "places", "rotation", "weights", "sizes"), given, strict=True)), **change}
    with pyflowk.backend(backend), pytest.raises(error, match=message):
        causal_decode(**whole)


def test_what_nobody_knows() -> None:
    given, _ = made("plain")
    with pytest.raises(ValueError, match="bound: expected one of none, tanh, sigmoid, additive, softplus; got 'relu'"):
        causal_decode(*given, bound="relu")
    with pytest.raises(ValueError, match="rule: expected one of log_scale, scale, product; got 'sum'"):
        causal_decode(*given, rule="sum")
    weak, guides = given[1], torch.ones(3, dtype=torch.float64)
    for backend in ("reference", "cpu"):
        with pyflowk.backend(backend):
            with pytest.raises(ValueError, match="guidance wants Gaussian tokens, not an additive map"):
                causal_decode(*given, bound="additive", weak=weak, guides=guides)
            with pytest.raises(ValueError, match=r"guides must be \(3,\); got \(2,\)"):
                causal_decode(*given, weak=weak, guides=guides[:2])
