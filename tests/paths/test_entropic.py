"""Pairs drawn from entropic plans: limits, the bridge, unbalanced and partial masses, labels, warnings, bad input."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from pyflowk.paths import Sinkhorn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def test_a_small_reg_recovers_a_permutation() -> None:
    x0, places = normal(50, 2, 3), torch.randperm(50, generator=generator())
    for pairing in (Sinkhorn(0.05), Sinkhorn(0.05, draw="pairs"), Sinkhorn(0.05, reg_m=1e3)):
        a, b, context = pairing(x0, x0[places] + 0.01, None, generator())
        assert a.shape == b.shape == (50, 2, 3) and context is None
        assert ((a + 0.01 - b).abs() < 1e-5).all()
    assert torch.equal(Sinkhorn(0.05)(x0, x0[places], None, generator())[0], x0)


def test_a_large_reg_pairs_independently() -> None:
    x = normal(2000, 1)
    a, b, _ = Sinkhorn(1e6)(x, x, None, generator(1))
    assert torch.equal(a, x)
    assert abs(torch.corrcoef(torch.cat((a, b), 1).T)[0, 1]) < 5 / math.sqrt(2000)


def test_the_covariance_of_a_bridge() -> None:
    """Between N(0, .7^2) and N(0, 1.3^2), sigma = .8: modern closed form, up to the error of 3000 pairs."""
    x0, x1 = 0.7 * normal(3000, 1), 1.3 * normal(3000, 1, seed=1)
    for draw in ("rows", "pairs"):
        a, b, _ = Sinkhorn(2 * 0.8**2, draw=draw)(x0, x1, None, generator())
        assert float((a * b).mean()) == pytest.approx(0.6446242792, abs=5 * 1.2 / math.sqrt(3000))
        assert float(b.std()) == pytest.approx(1.3, abs=0.1) and float(a.std()) == pytest.approx(0.7, abs=0.06)


def test_the_same_seed_gives_the_same_pairs() -> None:
    x0, x1 = normal(30, 2), normal(20, 2, seed=1)
    for pairing in (Sinkhorn(1.0), Sinkhorn(1.0, draw="pairs"), Sinkhorn(1.0, fraction=0.5)):
        one, other, another = (pairing(x0, x1, None, generator(seed)) for seed in (3, 3, 4))
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        assert not torch.equal(one[1], another[1]) and one[1].shape == (30, 2)


def test_what_is_far_off_is_left_alone() -> None:
    """A third of the data lies where no noise is: unbalanced and partial pairs do without it."""
    x0, x1 = normal(60, 2), normal(60, 2, seed=1)
    x1[:20] += 30.0
    far = {
        name: (pairing(x0, x1, None, generator())[1] > 15).all(1).float().mean().item()
        for name, pairing in {
            "balanced": Sinkhorn(0.5, tolerance=1e-3),
            "unbalanced": Sinkhorn(0.5, reg_m=5.0),
            "partial": Sinkhorn(0.5, fraction=0.6, tolerance=1e-3),
            "most": Sinkhorn(0.5, fraction=0.9, tolerance=1e-3),
        }.items()
    }
    assert far["balanced"] > 0.2 and far["unbalanced"] == far["partial"] == 0
    assert 0.1 < far["most"] < 0.4  # 0.9 - 2 / 3 of 0.9, 0.26


def test_labels_are_paired_among_their_own() -> None:
    """Noise does not tell of the label, though the classes lie apart."""
    labels = torch.arange(600) % 3
    x0, x1 = normal(600, 2), normal(600, 2, seed=1) + 4.0 * labels[:, None]
    a, b, context = Sinkhorn(0.5)(x0, x1, labels, generator())
    assert torch.equal(a, x0)
    assert context is not None and torch.equal(context, labels)
    assert ((b - 4.0 * labels[:, None]).abs() < 4.5).all()
    for label in range(3):
        assert (a[context == label].mean(0).abs() < 4 / math.sqrt(200)).all()
    rows = {tuple(row.tolist()): int(label) for row, label in zip(x1, labels)}
    with pytest.warns(UserWarning, match=r"Sinkhorn.* whatever the context"):
        _, b, context = Sinkhorn(0.5, condition="ignore")(x0, x1, labels, generator())
    assert context is not None and [rows[tuple(row.tolist())] for row in b] == context.tolist()


def test_close_numbers_are_paired() -> None:
    """The context of the noise, that of the event in whose place it came, is nearly that of its event."""
    context = normal(300, 1, seed=2)
    x0, x1 = normal(300, 2), normal(300, 2, seed=1) + 3 * context
    noise, _, kept = Sinkhorn(0.5)(x0, x1, context, generator())
    assert kept is not None and torch.equal(noise, x0)
    assert float((kept - context).abs().mean()) < 0.2
    assert abs(torch.corrcoef(torch.cat((noise, kept), 1).T)[0, 2]) < 4 / math.sqrt(300)


def test_small_batches() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = torch.zeros(0, 2)
        for pairing in (Sinkhorn(1.0), Sinkhorn(1.0, reg_m=1.0), Sinkhorn(1.0, fraction=0.5)):
            assert pairing(empty, empty)[1].shape == (0, 2)
            assert pairing(torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.int64))[1].tolist() == [1.0]
            assert pairing(empty, empty, torch.zeros(0, dtype=torch.int64))[0].shape == (0, 2)
        assert Sinkhorn(1.0)(torch.zeros(3, 2, dtype=torch.bfloat16), torch.ones(3, 2))[0].dtype == torch.bfloat16


def test_what_fails_is_told() -> None:
    x0, x1 = normal(20, 2), normal(20, 2, seed=1)
    with pytest.warns(UserWarning, match="off by .* after 3 iterations: a larger reg"):
        Sinkhorn(1e-3, iterations=3)(x0, x1)
    x0[3] = math.nan
    with pytest.warns(UserWarning, match="not finite"):
        a, b, _ = Sinkhorn(1.0)(x0, x1)
    assert torch.equal(b, x1) and torch.equal(a[4:], x0[4:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"reg": 0.0}, "reg and reg_m above 0"),
        ({"reg": math.nan}, "reg to be a finite number"),
        ({"reg": 1.0, "reg_m": 0.0}, "reg and reg_m above 0"),
        ({"reg": 1.0, "fraction": 1.5}, r"a fraction in \(0, 1\]"),
        ({"reg": 1.0, "fraction": 0.5, "reg_m": 1.0}, "not both"),
        ({"reg": 1.0, "draw": "row"}, "draw to be one of rows, pairs, got 'row'"),
        ({"reg": 1.0, "condition": "label"}, "condition to be one of"),
        ({"reg": 1.0, "iterations": 0}, "iterations to be an integer"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sinkhorn(**arguments)  # type: ignore[arg-type]


def test_bad_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one event shape, got \(2, 3\) and \(2, 4\)"):
        Sinkhorn(1.0)(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="cannot pair 2 rows with 0"):
        Sinkhorn(1.0)(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="expected a context of 2 rows"):
        Sinkhorn(1.0)(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="as much noise as there are events with a context, got 3 and 2"):
        Sinkhorn(1.0)(torch.zeros(3, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
