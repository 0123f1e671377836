"""Edit flows keep the protocol with rows of several lengths, learn tasks whose length must change, and write texts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch

from pyflowk import datasets, frozen, zoo
from pyflowk.cli import main
from pyflowk.space import Context, Ragged, Space
from pyflowk.zoo import Ability

SPACE = Space((6,), symbols=3, variable=True)
LABELLED = Space((6,), symbols=3, variable=True, context=Context("labels", 2))
TINY: dict[str, Any] = {"width": 8, "depth": 1}
SMALL: dict[str, dict[str, Any]] = {
    "insertions": {},
    "noise": {"noise": 4},
    "spread": {"noise": 8, "spread": 1.0, "times": "uniform", "alignment": "leftmost"},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(space: Space = SPACE, **options: Any) -> zoo.EditModel:
    torch.manual_seed(0)
    model = zoo.edit_flow(space, **TINY, **options)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape)
    return model.eval()


def rows(n: int) -> Ragged:
    return Ragged(torch.randint(0, 3, (n, 6), generator=seeded(1)), torch.arange(n) % 7)


def same(a: Ragged, b: Ragged) -> bool:
    return torch.equal(a.lengths, b.lengths) and torch.equal(a.values, b.values)


@pytest.mark.parametrize("name", SMALL)
def test_protocol(name: str) -> None:
    model, x = build(**SMALL[name]), rows(8)
    assert (Ability.LIKELIHOOD in model.abilities) == (name != "spread")
    assert model.loss_unit == (None if name == "spread" else "nats")
    for training in (False, True):
        twin = model.train(training)
        state = torch.get_rng_state()
        loss, samples = twin.loss(x, None, seeded()), twin.sample(8, None, seeded(), steps=4, most=None)
        assert loss.shape == (8,) and loss.dtype == torch.float32 and loss.isfinite().all()
        assert torch.equal(loss, twin(x, None, seeded())) and torch.equal(torch.get_rng_state(), state)
        SPACE.check(samples)
        assert same(samples, twin.sample(8, None, seeded(), steps=4, most=None)) and samples.values.max() < 3
        assert len(set(samples.lengths.tolist())) > 1 and samples.lengths.max() <= 6
    model.eval()
    assert model.loss(rows(0)).shape == (0,) and len(model.sample(0)) == 0
    samples = model.sample(8, None, seeded(), steps=4, most=None)
    assert same(samples, frozen(model).sample(8, None, seeded(), steps=4, most=None))
    config = json.loads(json.dumps(model.config))
    with torch.device("meta"):
        twin = zoo.create(config.pop("name"), **config)
    twin.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(model.loss(x, None, seeded()), twin.eval().loss(x, None, seeded()))
    if name == "spread":
        with pytest.raises(NotImplementedError, match="edit_flow has no likelihood"):
            model.log_prob(x)
    else:
        assert torch.equal(model.loss(x, None, seeded()), -model.log_prob(x, None, seeded()))
        drawn, log_prob = model.sample_and_log_prob(3, None, seeded(), steps=4, most=None)
        assert len(drawn) == 3 and log_prob.shape == (3,) and log_prob.isfinite().all()


def test_contexts_and_guidance() -> None:
    model, x, c = build(LABELLED, dropout=0.1), rows(6), torch.arange(6) % 2
    assert not torch.allclose(model.loss(x, c, seeded()), model.loss(x, 1 - c, seeded()))
    plain, guided = (model.sample(40, c[:1], seeded(), steps=3, most=None, guidance=w) for w in (0.0, 99.0))
    assert not same(plain, guided)
    for wrong, message in (
        ((None,), "got no context"),
        ((c[:3],), "context of 6 rows"),
        ((c + 9,), r"labels in 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss(x, *wrong)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(x, c, seeded())
        assert model.sample(2, c[:2], seeded(), steps=2, most=None).lengths.dtype == torch.int64
    torch.testing.assert_close(low, model.loss(x, c, seeded()), rtol=0.05, atol=0.2)


WORDS = ("0", "01", "2100", "111222")


def test_it_learns_words_whose_length_is_not_that_of_the_noise() -> None:
    """Three tokens are noise; words have one to six: it has to insert, to delete and to substitute."""
    torch.manual_seed(0)
    words = Ragged.of([torch.tensor([*map(int, word)]) for word in WORDS])
    model = zoo.edit_flow(SPACE, width=24, depth=1, noise=3, reach=3)
    optimizer = torch.optim.Adam(model.parameters(), 8e-3)
    for step in range(200):
        loss = model.loss(words[torch.randint(0, 4, (64,), generator=seeded(step))], None, seeded(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        x = model.eval().sample(400, None, seeded(), steps=16)
    found = Counter("".join(map(str, x.row(i).tolist())) for i in range(400))
    assert sum(found[word] for word in WORDS) > 340
    assert all(50 < found[word] < 150 for word in WORDS)


def test_brackets_are_balanced_and_their_entropy_is_known() -> None:
    data = datasets.load("brackets")
    x = datasets.load("brackets").train
    heights = torch.where(x.values == 0, 1, -1).where(x.mask, 0).cumsum(1)
    assert (heights >= 0).all() and not heights[:, -1].any() and x.lengths.unique().tolist() == [*range(2, 17, 2)]
    short = [tuple(x.row(i).tolist()) for i in range(len(x)) if x.lengths[i] == 6]
    shares = torch.tensor([count / len(short) for count in Counter(short).values()])
    assert len(shares) == 5 and (shares - 0.2).abs().max() < 0.05  # Catalan's number of words of three pairs
    assert data.entropy == pytest.approx(5.4405666, abs=1e-6)


def test_texts_from_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    small = [
        "--set",
        "width=8",
        "depth=1",
        "begun=0.5",
        "--sampling",
        "steps=2",
        "most=None",
        "--cpu",
        "--threads",
        "1",
    ]
    assert main(["train", "edit_flow", "--data", "brackets", "--steps", "3", "--out", run, *small]) == 0
    printed = capsys.readouterr().out
    assert "bits/symbol" in printed and "NLL minus entropy" in printed and "bigrams" in printed
    assert main(["sample", run, "--n", "3", "--prefix", "(()"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines[-3:]] == ["(()"] * 3
    assert (tmp_path / "run" / "samples.txt").read_text().splitlines() == lines[-3:]
    assert main(["sample", run, "--prefix", "a"]) == 2
    assert "characters that the model knows, got 'a'" in capsys.readouterr().err
    assert main(["sample", run, "--prefix", "(" * 17]) == 2
    assert "prefix: expected at most 16 symbols, got 17" in capsys.readouterr().err


def test_what_does_not_fit_is_named() -> None:
    x = rows(4)
    with pytest.raises(ValueError, match="walk expects rows to be an integer of at least 0, got -1"):
        build().walk(-1)
    for values, message in (
        (x.values - 1, "expected symbols from 0 on, got -1"),
        (x.values + 1, "must hold symbols 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            build().loss(Ragged(values, torch.full((4,), 6)))
    with pytest.raises(ValueError, match=r"expected x \(B, up to 6\), got \(4, 7\)"):
        build().loss(Ragged(torch.zeros(4, 7, dtype=torch.int64), x.lengths))
    with pytest.raises(ValueError, match="edit_flow takes symbols of one length or several"):
        zoo.create("edit_flow", (2,))
    with pytest.raises(
        ValueError, match=r"edit_flow takes sequences \(L,\) of symbols of several lengths .* got 6 of 3 symbols"
    ):
        zoo.create("edit_flow", Space((6,), symbols=3))
    with pytest.raises(ValueError, match="spread: expected 0 unless times are uniform"):
        build(spread=1.0)
    with pytest.raises(ValueError, match="prefix: expected a model of text, which has an alphabet"):
        build().sample(2, prefix="a")
    with pytest.raises(ValueError, match="corrector: expected noise without tokens"):
        build(noise=4).sample(2, corrector=1.0)
    alone = zoo.edit_flow(Space((6,), symbols=1, variable=True), **TINY, noise=3)  # a vocabulary of one
    assert alone.loss(Ragged(torch.zeros(4, 6, dtype=torch.int64), x.lengths)).isfinite().all()
    assert not alone.sample(3, None, seeded(), steps=3, most=None).values.any()
