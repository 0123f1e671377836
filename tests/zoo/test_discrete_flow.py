"""Discrete flow matching as a system: what it learns, completes, is guided by, and refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.metrics import total_variation
from pyflowk.solvers import unmask
from pyflowk.space import Context, Ragged, Space
from tests.tokens import entropy, token_data


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(model: zoo.GenerativeModel, x: object, context: object = None, steps: int = 150, lr: float = 1e-2):
    optimiser, generator = torch.optim.Adam(model.parameters(), lr), seeded()
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimiser.zero_grad()
        model.loss(x[rows], None if context is None else context[rows], generator).mean().backward()
        optimiser.step()
    return model.eval()


def test_rows_of_several_lengths_are_learned() -> None:
    data = token_data()
    torch.manual_seed(0)
    model = trained(zoo.discrete_flow(data.space, width=16, depth=1, heads=2), data.train, steps=150)
    with torch.no_grad():
        nats = -sum(model.log_prob(data.test, generator=seeded(i)).mean().item() for i in range(4)) / 4
        found = model.sample(2000, generator=seeded(), method="first_hitting")
    assert entropy() - 0.1 < nats < entropy() + 1.2  # of 8.6 nats; untrained it is above 13
    assert isinstance(found, Ragged) and total_variation(found.lengths, data.train.lengths).item() < 0.12


def test_labels_guide() -> None:
    """Class 0 is mostly 0, class 1 mostly 2: guidance makes it surer, and -1 does without the label."""
    generator = seeded()
    labels = torch.randint(2, (2000,), generator=generator)
    noise = torch.randint(3, (2000, 4), generator=generator)
    x = torch.where(torch.rand(2000, 4, generator=generator) < 0.5, 2 * labels[:, None], noise)
    torch.manual_seed(0)
    space = Space((4,), symbols=3, context=Context("labels", 2))
    model = trained(zoo.discrete_flow(space, width=16, depth=1, heads=2, dropout=0.2), x, labels)
    shares = []
    for guidance in (-1.0, 0.0, 1.0):
        found = model.sample(1000, torch.tensor([1]), seeded(), guidance=guidance, steps=8)
        shares.append((found == 2).float().mean().item())
    assert abs(shares[0] - 5 / 12) < 0.06 and abs(shares[1] - 2 / 3) < 0.05 and shares[2] > 0.75
    assert model.log_prob(x[:5]).shape == (5,)  # without a label
    assert model.tally.calls == 8


@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_samples_and_completions(source: str) -> None:
    space = Space((2, 3), symbols=4)
    model = zoo.discrete_flow(space, source=source, width=8, depth=1).eval()
    x, nats = model.sample_and_log_prob((2, 5), generator=seeded(), steps=3)
    assert x.shape == (2, 5, 2, 3) and nats.shape == (2, 5) and x.dtype == torch.int64
    y = torch.full((3, 2, 3), 9)  # which is not looked at
    known = torch.zeros(1, 2, 3, dtype=torch.bool)
    y[:, 0, 1], known[:, 0, 1] = 2, True
    found = model.complete(y, known, generator=seeded(), steps=4)
    assert (found[:, 0, 1] == 2).all() and found.max() < 4
    ways = [{"method": "euler", "corrector": 0.5}]
    ways += [{"gibbs": 2}] if source == "uniform" else [{"remask": 0.2}, {"method": "unmask", "block": 2}]
    for way in ways:
        assert model.sample(2, generator=seeded(), steps=3, **way).shape == (2, 2, 3)


def test_blocks_are_made_one_after_the_other() -> None:
    """What is kept of finished blocks changes nothing: a trace of guidance, which keeps nothing, draws the same."""
    space = Space((9,), symbols=4, context=Context("labels", 2))
    torch.manual_seed(0)
    model = zoo.discrete_flow(space, width=16, depth=1, heads=2, block=3, dropout=0.1).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))
    labels = torch.tensor([0, 1, 1])
    for way in ({"steps": 7}, {"method": "unmask", "steps": 6}, {"method": "first_hitting"}):
        x = model.sample(3, labels, seeded(), **way)
        calls = model.tally.calls
        assert torch.equal(x, model.sample(3, labels, seeded(), guidance=1e-9, **way))
        assert calls <= 3 * int(way.get("steps", 3))  # in each of 3 blocks
    known = torch.arange(9) % 3 == 1
    found = model.complete(x, known.expand(1, 9), labels, seeded())
    assert torch.equal(found[:, known], x[:, known]) and not torch.equal(found, x)
    assert model.log_prob(x, labels).shape == model.loss(x, labels).shape == (3,)
    for other, block in ((Space((9,), symbols=4), 2), (Space((1, 3, 3), levels=4), 3), (token_data().space, 2)):
        with pytest.raises(ValueError, match=f"block: expected rows of one length that is a multiple of {block}"):
            zoo.discrete_flow(other, width=8, depth=1, block=block)
    for wrong in ({"source": "uniform"}, {"timed": True}):
        with pytest.raises(ValueError, match="block: needs source mask, of which no time is told; got source="):
            zoo.discrete_flow(Space((6,), symbols=5), width=8, depth=1, block=3, **wrong)


def test_what_is_refused() -> None:
    model = zoo.discrete_flow(Space((6,), symbols=3, alphabet="abn"), width=8, depth=1)
    even = zoo.discrete_flow(Space((6,), symbols=3), width=8, depth=1, source="uniform")
    assert (model.sample(3, prefix="nab", steps=2)[:, :3] == torch.tensor([2, 0, 1])).all()
    for owner, options, words in (
        (model, {"prefix": "xyz"}, "one of 3 characters that the model knows, got 'x', 'y', 'z'"),
        (model, {"prefix": "banana!"[:6] + "a"}, "prefix: expected at most 6 symbols, got 7"),
        (even, {"prefix": "ab"}, "prefix: expected a model of text"),
        (model, {"gibbs": 1}, "expected gibbs where noise is uniform"),
        (even, {"method": "first_hitting"}, "method: expected mixture or euler where noise is uniform"),
        (model, {"method": "euler", "psi": 0.5}, "psi: is for mixture; got 0.5 with euler"),
        (model, {"guidance": 1.0}, "guidance: expected a network that hears labels or numbers given"),
        (model, {"temperature": -1.0}, "temperature: expected a number at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            owner.sample(1, **options)
    known = torch.ones(1, 6, dtype=torch.bool)
    for y in (torch.full((1, 6), 0.5), torch.full((1, 6), math.nan), torch.full((1, 6), 3)):
        with pytest.raises(ValueError, match="y, where it is known"):
            model.complete(y, known)
    with pytest.raises(TypeError, match="known: expected True and False"):
        model.complete(torch.zeros(1, 6).long(), known.long())
    for t in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="MixturePath expects times from 0 to 1, got"):
            model.objective.path.sample(None, torch.zeros(1, 6).long(), t)
    for threshold in (0.0, math.nan):
        with pytest.raises(ValueError, match="threshold: expected a probability above 0"):
            unmask(model.net, torch.full((1, 6), 3), model.objective.path, 2, threshold=threshold)
    with pytest.raises(ValueError, match="expected a path of the symbols of 6 of 4 symbols"):
        zoo.DiscreteModel(Space((6,), symbols=4), model.net, model.objective)
    with pytest.raises(ValueError, match="expected symbols 0 to 2, got 3 to 3; 3 is the mask"):
        model.loss(torch.full((1, 6), 3))
    with pytest.raises(ValueError, match=r"expected x \(B, 6\), got \(1, 7\)"):
        model.loss(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="levels"):
        zoo.discrete_flow((3,), levels=4, width=8, depth=1).loss(torch.full((1, 3), 4.0))
    one = zoo.discrete_flow(Space((3,), symbols=1), width=8, depth=1)  # a vocabulary of one
    assert one.sample(2).tolist() == [[0] * 3] * 2 and one.log_prob(torch.zeros(2, 3).long()).abs().max() == 0


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book, run = tmp_path / "book.txt", tmp_path / "run"
    book.write_text("one fish two fish red fish blue fish\n" * 60, encoding="utf-8")
    sizes = ["--size", "16", "--set", "width=16", "depth=1", "heads=2", "--sampling", "steps=4"]
    assert main(["train", "discrete_flow", "--data", str(book), "--out", str(run), "--steps", "40", *sizes]) == 0
    assert "trigrams" in capsys.readouterr().out and "-----" in (run / "samples.txt").read_text()
    assert main(["sample", str(run), "-n", "3", "--prefix", "two"]) == 0
    said = capsys.readouterr().out
    assert said.count("\ntwo") == 3 and (run / "samples.txt").read_text().count("two") >= 3
    assert main(["eval", str(run)]) == 0
    score = capsys.readouterr().out
    assert "bits/symbol" in score and math.isfinite(float(score.split("trigrams")[1].split()[0]))
    assert main(["sample", str(run), "--prefix", "Zwei"]) == 2
