"""Pairings against what is known of them: Gaussians, permutations, contexts that noise must not tell of."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from pyflowk.paths import OptimalTransport
from pyflowk.paths.pairing import equal_rows


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def cost(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0 - x1).square().sum()


def test_a_permuted_batch_is_recovered() -> None:
    x1, context = noise(50, 2, 3), torch.arange(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    x0, events, conditions = OptimalTransport(condition="ignore")(x1[order], x1)
    assert torch.equal(x0, x1) and events is x1 and conditions is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert OptimalTransport(condition="ignore")(x1[order], x1, context)[2] is context


def test_pairs_of_gaussians_have_the_covariance_of_optimal_transport() -> None:
    """On a line it is sorting: c = s0 s1, and one Euler step of the average velocity is exact."""
    x0, x1 = 1 + 0.7 * noise(1000, 1), 1.3 * noise(1000, 1, seed=1) - 2
    paired, _, _ = OptimalTransport()(x0, x1)
    assert torch.equal(paired[x1.flatten().argsort()], x0.sort(0).values)
    c = ((paired - paired.mean()) * (x1 - x1.mean())).mean()
    assert c.item() == pytest.approx(0.7 * 1.3, abs=4 * 0.7 * 1.3 * (2 / 1000) ** 0.5)
    assert abs(((x0 - x0.mean()) * (x1 - x1.mean())).mean()) < 0.1


@pytest.mark.parametrize("shape", [(1,), (7, 3), (600, 2), (64, 1, 4, 4)])
def test_a_permutation_that_is_never_longer(shape: tuple[int, ...]) -> None:
    x0, x1 = noise(*shape), noise(*shape, seed=1)
    paired, events, _ = OptimalTransport()(x0, x1)
    assert events is x1 and cost(paired, x1) <= cost(x0, x1)
    assert torch.equal(paired.sort(0).values, x0.sort(0).values)
    pieces = OptimalTransport(size=10).order(x0, x1)
    assert torch.equal(pieces // 10, torch.arange(shape[0]) // 10) and len({*pieces.tolist()}) == shape[0]
    assert cost(paired, x1) <= cost(x0[pieces], x1) <= cost(x0, x1)
    empty = OptimalTransport()(x0[:0], x1[:0])
    assert empty[0].shape == (0, *shape[1:])


@pytest.mark.parametrize("kind", ["labels", "numbers", "ignore"])
def test_noise_tells_nothing_of_its_context(kind: str) -> None:
    """Two classes with different means: the noise of each has mean 0, unless the context is ignored."""
    rows, batches = 128, 40
    means: list[list[Tensor]] = [[], []]
    for batch in range(batches):
        labels = torch.arange(rows) % 2
        x1 = noise(rows, 2, seed=batch) / 2 + 3 * (2 * labels[:, None] - 1)
        context = labels if kind == "labels" else labels[:, None].float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if kind == "ignore" else "error")
            x0, _, _ = OptimalTransport(condition="ignore" if kind == "ignore" else "auto")(
                noise(rows, 2, seed=1000 + batch), x1, context
            )
        for label in (0, 1):
            means[label].append(x0[labels == label].mean(0))
    error = 1 / (rows / 2 * batches) ** 0.5
    for label in (0, 1):
        found = torch.stack(means[label]).mean(0).abs()
        assert (found > 20 * error).all() if kind == "ignore" else (found < 3 * error).all()


def test_labels_are_paired_among_themselves_and_numbers_nearly() -> None:
    x0, x1, labels = noise(90, 2), noise(90, 2, seed=1), torch.arange(90) % 4
    order = OptimalTransport().order(x0, x1, labels)
    assert torch.equal(labels[order], labels)
    for rows in equal_rows(labels):
        assert torch.equal(order[rows], rows[OptimalTransport().order(x0[rows], x1[rows])])
    pairs = torch.stack((labels, labels // 2), 1)
    assert torch.equal(OptimalTransport().order(x0, x1, pairs), order)
    assert torch.equal(OptimalTransport(condition="labels").order(x0, x1, pairs.float()), order)
    numbers = noise(90, 1, seed=2)
    away = [
        (numbers[OptimalTransport(weight=weight).order(x0, x1, numbers)] - numbers).square().mean().item()
        for weight in (0.0, 1.0, 100.0, 1e9)
    ]
    assert away == sorted(away, reverse=True) and away[0] > 1 and away[-1] == 0
    same = torch.ones(90, 3)  # contexts that do not differ have no scale
    assert torch.equal(OptimalTransport().order(x0, x1, same), OptimalTransport().order(x0, x1))


def test_who_ignores_the_context_is_warned() -> None:
    x = noise(4, 2)
    with pytest.warns(UserWarning, match="samples given a context will be biased"):
        OptimalTransport(condition="ignore")(x, x, torch.arange(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OptimalTransport(condition="ignore")(x, x)
        OptimalTransport()(x, x, torch.arange(4))


def test_drawn_pairs_are_pairs() -> None:
    x0, x1, context = noise(200, 2), noise(200, 2, seed=1), torch.zeros(200, 1)
    context[:, 0] = torch.arange(200)
    x1[:, 0] = context[:, 0]  # so that each is known by it
    whole = OptimalTransport(weight=0.0)(x0, x1, context)[0]
    drawn = [
        OptimalTransport(weight=0.0, draw="pairs")(x0, x1, context, torch.Generator().manual_seed(3)) for _ in (0, 1)
    ]
    assert all(map(torch.equal, *drawn))
    for noises, events, contexts in drawn:
        rows = contexts[:, 0].long()
        assert torch.equal(whole[rows], noises) and torch.equal(x1[rows], events)
        assert len({*rows.tolist()}) == pytest.approx(200 * (1 - torch.e**-1), abs=25)


def test_what_does_not_fit_is_named() -> None:
    x = noise(4, 2)
    for options, words in (
        ({"condition": "label"}, "condition: expected one of auto, labels, numbers, ignore; got 'label'"),
        ({"draw": "row"}, "draw: expected one of permutation, pairs; got 'row'"),
        ({"weight": -1.0}, "weight to be a finite number of at least 0, got -1"),
        ({"size": 0}, "size to be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            OptimalTransport(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x0 and x1 of one shape \(B, \*event\), got \(4, 2\) and \(4, 1\)"):
        OptimalTransport()(x, x[:, :1])
    for pair, name in (((x.numpy(), x), "x0"), ((x, x.numpy()), "x1")):
        with pytest.raises(TypeError, match=rf"{name}: expected a tensor \(B, \*event\), got a numpy array \(4, 2\)"):
            OptimalTransport()(*pair)
    with pytest.raises(ValueError, match=r"expected a context of 4 rows, got \(3,\)"):
        OptimalTransport()(x, x, torch.arange(3))
    spoilt = x.clone()
    spoilt[2] = torch.nan
    for bad, name in (((spoilt, x), "x0"), ((x, spoilt), "x1")):
        for labels in (None, torch.arange(4) % 2):
            message = f"OptimalTransport: expected finite numbers, got NaN or infinity in row 2 of {name}"
            with pytest.raises(ValueError, match=message):
                OptimalTransport()(*bad, labels)


def test_rows_that_are_alike() -> None:
    assert [rows.tolist() for rows in equal_rows(torch.tensor([[1, 2], [0, 5], [1, 2]]))] == [[1], [0, 2]]
    assert equal_rows(torch.empty(0, dtype=torch.int64)) == []


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x0, x1, labels = noise(20, 2), noise(20, 2, seed=1), torch.arange(20) % 3
    own = slice(10 * rank, 10 * rank + 10)
    torch.save(OptimalTransport(gather=True)(x0[own], x1[own], labels[own]), f"{folder}/{rank}.pt")
    with pytest.raises(ValueError, match="batches of one shape and dtype in all processes"):
        OptimalTransport(gather=True)(x0[: 3 + rank], x1[: 3 + rank])
    dist.destroy_process_group()


def test_two_processes_pair_as_one() -> None:
    x0, x1, labels = noise(20, 2), noise(20, 2, seed=1), torch.arange(20) % 3
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (folder,), nprocs=2)
        parts = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    whole = OptimalTransport()(x0, x1, labels)
    for found, wanted in zip(zip(*parts), whole):
        assert torch.equal(torch.cat(found), wanted)
    assert torch.equal(OptimalTransport(gather=True)(x0, x1, labels)[0], whole[0])  # outside of a group it pairs alone
