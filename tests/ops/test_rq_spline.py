"""rq_spline where peers break: extreme logits, tails, round trips; and its values against theirs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import rq_spline, spline_params
from pyflowk.ops._router import all_ops
from tests.ops.cases import made

TAILS = ("linear", "bounded", "circular")
#: every kind of tails and direction, and the widest soft clip
KINDS = [*itertools.product(TAILS, (False, True), (0.0,)), ("linear", False, 30.0), ("bounded", True, 30.0)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values_and_gradients(
    x: Tensor, params: Tensor, cotangents: tuple[Tensor, Tensor], **options: object
) -> list[Tensor]:
    x, params = x.detach().requires_grad_(), params.detach().requires_grad_()
    outputs = rq_spline(x, params, mask="all", **options)
    return [t.detach() for t in (*outputs, *torch.autograd.grad(outputs, (x, params), cotangents))]


@pytest.mark.parametrize("tails, inverse, softclip", KINDS)
def test_wild_logits_neither_break_nor_drift(tails: str, inverse: bool, softclip: float) -> None:
    """Logits of std 6 with 16 bins in float32: no NaN anywhere; the way back is as good as the slope allows."""
    x = 1.2 * noise(4000, 8)
    params = 6 * noise(4000, 8 * spline_params(16, tails), seed=1)
    options = dict(bins=16, tails=tails, interval=(-3.0, 3.0), softclip=softclip)
    y, ladj, dx, dparams = values_and_gradients(
        x, params, (noise(4000, 8, seed=2), noise(4000)), inverse=inverse, **options
    )
    for t in (y, ladj, dx, dparams):
        assert t.isfinite().all()
    back, ladj_back = rq_spline(y, params, mask="all", inverse=not inverse, **options)
    assert back.isfinite().all() and ladj_back.isfinite().all()

    def steep(t: Tensor, inverse: bool) -> Tensor:
        """Whether the exact map has a slope above 20 within a few roundings of t."""
        nearby = [
            rq_spline(t + step, params.double(), mask="all", inverse=inverse, **options)[0] for step in (-2e-6, 0, 2e-6)
        ]
        return torch.stack(nearby).diff(dim=0).amax(0) > 20 * 2e-6

    exact = rq_spline(x.double(), params.double(), mask="all", inverse=inverse, **options)[0]
    conditioned = ~(steep(x.double(), inverse) | steep(exact, not inverse))
    assert conditioned.float().mean() > 0.1
    assert (back - x)[conditioned].abs().max() <= 1e-4


@pytest.mark.parametrize("tails, inverse, softclip", KINDS)
def test_extreme_logits(tails: str, inverse: bool, softclip: float) -> None:
    per_element = spline_params(4, tails)
    x = torch.linspace(-2.9, 2.9, 12)[:, None]
    values = (1e4, -1e4, 3e38, -3e38) if softclip else (1e4, -1e4, -math.inf, 3e38, -3e38)
    options = dict(bins=4, tails=tails, inverse=inverse, softclip=softclip, min_width=0.0 if softclip else 1e-3)
    for position, value in itertools.product(range(per_element), values):
        params = noise(12, per_element, seed=position)
        params[:, position] = value
        outputs = values_and_gradients(x, params, (torch.ones(12, 1), torch.ones(12)), **options)
        for t in outputs:
            assert t.isfinite().all(), (position, value)


@pytest.mark.parametrize("inverse", [False, True])
def test_everything_in_the_tails(inverse: bool) -> None:
    x = torch.cat([-3.1 - noise(50, 6).abs(), 3.1 + noise(50, 6).abs() * 100])
    params = 3 * noise(100, 6 * 23)
    gy = noise(100, 6)
    y, ladj, dx, dparams = values_and_gradients(x, params, (gy, torch.ones(100)), inverse=inverse)
    assert torch.equal(y, x) and torch.equal(dx, gy) and not ladj.any() and not dparams.any()


def test_ends_of_the_interval_and_nan() -> None:
    x = torch.tensor([[-3.0, 3.0, math.nan, math.inf, -math.inf]])
    params = noise(1, 5 * 23)
    y, ladj = rq_spline(x, params, mask="all")
    torch.testing.assert_close(y, x, equal_nan=True)
    assert ladj.isnan().all()
    y, ladj = rq_spline(x[:, :2], params[:, : 2 * 23], mask="all")
    torch.testing.assert_close(ladj, torch.zeros(1), rtol=0, atol=1e-5)


def test_bounded_goes_on_straight_and_circular_repeats() -> None:
    x = torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None]
    bounded = noise(1, spline_params(5, "bounded")).double().expand(181, -1)
    y, ladj = rq_spline(x, bounded, mask="all", bins=5, tails="bounded")
    outside = x[:, 0] > 3.05
    torch.testing.assert_close(y[outside].diff(dim=0)[:, 0], 0.1 * ladj[outside][1:].exp())
    circular = noise(1, spline_params(5, "circular")).double().expand(181, -1)
    y, ladj = rq_spline(x, circular, mask="all", bins=5, tails="circular")
    torch.testing.assert_close(y[60:] - 6, y[:-60])
    torch.testing.assert_close(ladj[60:], ladj[:-60])


@pytest.mark.parametrize("tails, inverse, bins", itertools.product(TAILS, (False, True), (4, 16)))
def test_errors_are_those_of_plain_torch_over_many_elements(tails: str, inverse: bool, bins: int) -> None:
    """The typical error against float64 in float32: no more than one and a half times that of the formula."""
    x, params = 1.2 * noise(2000, 8), noise(2000, 8 * spline_params(bins, tails), seed=1)
    cotangents = noise(2000, 8, seed=2), noise(2000, seed=3)
    options = dict(bins=bins, tails=tails, inverse=inverse)
    with pyflowk.backend("reference"):
        doubles = (cotangents[0].double(), cotangents[1].double())
        exact = values_and_gradients(x.double(), params.double(), doubles, **options)
        plain = values_and_gradients(x, params, cotangents, **options)
    for kernel, formula, truth in zip(values_and_gradients(x, params, cotangents, **options), plain, exact):
        typical = [(t - truth).abs().double().flatten().quantile(0.9).item() for t in (kernel, formula)]
        assert typical[0] <= 1.5 * typical[1] + 1e-7, typical


def test_zero_params_are_the_identity() -> None:
    x = 2 * noise(100, 6)
    for tails, interleaved, inverse in itertools.product(TAILS, (False, True), (False, True)):
        params = torch.zeros(100, 3 * spline_params(7, tails))
        y, ladj = rq_spline(x, params, bins=7, tails=tails, interleaved=interleaved, inverse=inverse)
        torch.testing.assert_close(y, x, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(ladj, torch.zeros(100), rtol=0, atol=1e-5)


def test_layouts_hold_the_same_numbers() -> None:
    x, grouped = noise(10, 6), noise(10, 6, 23)
    flat = grouped.transpose(1, 2).reshape(10, -1)
    for a, b in zip(rq_spline(x, grouped.flatten(1), mask="all", interleaved=True), rq_spline(x, flat, mask="all")):
        assert torch.equal(a, b)


@pytest.mark.parametrize("inverse", [False, True])
def test_values_are_those_of_nflows(inverse: bool) -> None:
    splines = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    x = 2 * noise(200, 5).double()
    offset = math.log(math.expm1(1 - 1e-3))  # nflows' softplus has no offset: zero is a slope of log 2 there
    for tails, slopes in (("linear", 7), ("bounded", 9)):
        params = noise(200, 5, 16 + slopes).double()
        widths, heights, raw = params.split([8, 8, slopes], -1)
        y, ladj = rq_spline(
            x.clamp(-3, 3), params.flatten(1), mask="all", tails=tails, interleaved=True, inverse=inverse
        )
        if tails == "linear":
            expected, log_slope = splines.unconstrained_rational_quadratic_spline(
                x.clamp(-3, 3), widths, heights, raw + offset, inverse=inverse, tail_bound=3.0
            )
        else:
            expected, log_slope = splines.rational_quadratic_spline(
                x.clamp(-3, 3),
                widths,
                heights,
                raw + offset,
                inverse=inverse,
                left=-3.0,
                right=3.0,
                bottom=-3.0,
                top=3.0,
            )
        torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ladj, log_slope.sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inverse", [False, True])
def test_values_are_those_of_zuko(inverse: bool) -> None:
    zuko = pytest.importorskip("zuko")
    x, params = 2 * noise(200, 5).double(), noise(200, 5, 23).double()
    map = zuko.transforms.MonotonicRQSTransform(*params.split([8, 8, 7], -1), bound=3.0, slope=1e-3)
    expected, log_slope = (map.inv if inverse else map).call_and_ladj(x)
    y, ladj = rq_spline(
        x, params.flatten(1), mask="all", interleaved=True, inverse=inverse, min_width=0, min_height=0,
        softclip=-math.log(1e-3),
    )  # fmt: skip
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ladj, log_slope.sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bins": 1}, r"bins must be in 2\.\.64; got 1"),
        ({"bins": 65}, r"bins must be in 2\.\.64; got 65"),
        ({"tails": "flat"}, "expected one of linear, bounded, circular; got 'flat'"),
        ({"interval": (1.0, 1.0)}, "finite and not empty"),
        ({"interval": (-math.inf, 1.0)}, "finite and not empty"),
        ({"min_width": 0.2}, r"min_width must be in \(0, 1 / bins\); got 0\.2 with 8 bins"),
        ({"min_height": 0.0}, "min_height must be in"),
        ({"min_slope": 1.0}, r"min_slope must be in \(0, 1\)"),
        ({"softclip": 31.0}, r"softclip must be in \[0, 30\]; got 31"),
        ({"mask": "diagonal"}, "expected one of"),
        ({"bins": 7}, r"params must be \(2, 80\)"),
    ],
)
@pytest.mark.parametrize("forced", ["cpu", "reference"])
def test_bad_options_are_refused_in_words(options: dict[str, object], words: str, forced: str) -> None:
    with pyflowk.backend(forced), pytest.raises(ValueError, match=words):
        rq_spline(torch.zeros(2, 8), torch.zeros(2, 4 * 23), **options)


def test_bad_counts_of_params_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"2\.\.64; got 0"):
        spline_params(0)
    with pytest.raises(ValueError, match="got 'flat'"):
        spline_params(8, "flat")


@pytest.mark.parametrize("op", ["made_forward", "made_inverse"])
def test_made_leaves_its_splines_to_the_kernels_of_a_card(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its formula, which serves there around the products, asks the op: one launch in place of a hundred."""
    asked: list[str] = []
    for name in ("rq_spline", "rq_spline_backward"):
        run = all_ops()[name].run
        monkeypatch.setattr(all_ops()[name], "run", lambda *a, _name=name, _run=run: asked.append(_name) or _run(*a))
    case = next(case for case in made.SMALL if case.op == op and "linear3" in str(case))
    inputs = [t.requires_grad_(t.is_floating_point()) for t in case.inputs(4, torch.float32)]
    with pyflowk.backend("reference"):
        torch.autograd.grad(case.call(*inputs)[0].sum(), inputs[0])
    assert asked.count("rq_spline") == (1 if op == "made_forward" else 3) and "rq_spline_backward" in asked
