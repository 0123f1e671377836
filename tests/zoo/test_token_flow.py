"""Token flow as a system: it learns a law of symbols and samples it, is guided, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.space import Context, Space


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_learns_and_samples() -> None:
    """Rows of a symbol, its double and itself again."""
    first = torch.randint(3, (600, 1), generator=seeded())
    x = torch.cat((first, (2 * first) % 3, first), 1)
    torch.manual_seed(0)
    model = zoo.token_flow(Space((3,), symbols=3), width=16, depth=1, reach=1)
    optimiser, generator = torch.optim.Adam(model.parameters(), 1e-2), seeded()
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(x[torch.randint(600, (64,), generator=generator)], None, generator).mean().backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        nats = -model.log_prob(x, generator=seeded()).mean().item()
        found = model.sample(300, generator=seeded(), steps=16)
    assert 1.0 < nats < 1.7  # log 3 is 1.10; untrained it is above 3.3
    right = (found[:, 1] == (2 * found[:, 0]) % 3) & (found[:, 2] == found[:, 0])
    assert right.float().mean() > 0.9 and (found[:, 0].bincount(minlength=3) > 60).all()
    with pytest.raises(ValueError, match="temperature: expected a number at least 0"):
        model.sample(1, temperature=-1.0)


def test_labels_guide_and_errors() -> None:
    model = zoo.token_flow(Space((4,), symbols=3, context=Context("labels", 2)), width=8, depth=1, dropout=0.1).eval()
    labels = torch.tensor([0, 1])
    x, nats = model.sample_and_log_prob(2, labels, seeded(), steps=3, guidance=1.0)
    assert x.shape == (2, 4) and nats.shape == (2,) and model.log_prob(x).shape == (2,)
    assert torch.equal(x, model.sample(2, labels, seeded(), steps=3, guidance=1.0)) and model.sample(0).shape == (0, 4)
    assert model.sample(2, labels, seeded(), steps=3, temperature=0.0).max() < 3 and model.loss_unit == "nats"
    for space in (Space((3,), symbols=1), Space((3,), levels=4), Space((3,), symbols=4, variable=True)):
        with pytest.raises(ValueError, match="token_flow takes"):
            zoo.token_flow(space)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book, run = tmp_path / "book.txt", tmp_path / "run"
    book.write_text("one fish two fish red fish blue fish\n" * 40, encoding="utf-8")
    sizes = ["--size", "16", "--set", "width=8", "depth=1", "--sampling", "steps=3"]
    assert main(["train", "token_flow", "--data", str(book), "--out", str(run), "--steps", "5", *sizes]) == 0
    assert "bits/symbol" in capsys.readouterr().out
    assert main(["sample", str(run), "-n", "3"]) == 0 and (run / "samples.txt").read_text().count("-" * 72) == 3
