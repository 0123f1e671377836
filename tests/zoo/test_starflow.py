"""STARFlow's own rules: who hears the context, the order of tokens, guidance, and a denoiser that learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pyflowk import zoo
from pyflowk.datasets import split
from pyflowk.space import Context, Ragged, Space
from pyflowk.training import TrainConfig, Trainer
from pyflowk.transforms import Causal
from pyflowk.zoo import StarFlow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(shape: tuple[int, ...] = (6,), **options: Any) -> StarFlow:
    torch.manual_seed(0)
    model = zoo.starflow(shape, **{"width": 8, "blocks": 2, "deep": 1, "patch": 1, **options})
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=seeded(p.numel()))
    return model.eval()


@pytest.mark.parametrize("blocks", [2, 3])
def test_the_deep_map_alone_hears_the_context_and_sees_tokens_in_their_order(blocks: int) -> None:
    model = small(classes=3, dropout=0.1, blocks=blocks, prefix=2)
    maps = [layer for layer in model.flow.transform.layers() if isinstance(layer, Causal)]
    assert [layer.net.takes_context for layer in maps] == [False] * (blocks - 1) + [True]
    x, label = torch.randn(4, 6, generator=seeded()), torch.tensor([1])
    assert not torch.isclose(model.log_prob(x, label), model.log_prob(x)).any()
    seen: list[torch.Tensor] = []  # by the deep one, where the shallow ones do nothing
    with torch.no_grad():
        for layer in maps[:-1]:
            for p in layer.net.last.parameters():
                p.zero_()
    hook = maps[-1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    model.initialize(x, label.expand(4))
    seen.clear()
    model.log_prob(x, label)
    hook.remove()
    assert seen[0].shape == (4, 6, 1)
    order = torch.stack([torch.corrcoef(torch.stack((seen[0][:, i, 0], x[:, i])))[0, 1] for i in range(6)])
    torch.testing.assert_close(order, torch.ones(6))


def test_guidance_is_of_the_deep_map_by_the_product() -> None:
    model, label = small(classes=3, dropout=0.1), torch.tensor([1])
    with torch.no_grad():
        plain, x = model.sample(5, label, seeded()), model.sample(5, label, seeded(), guidance=1.5)
        same = model.sample(5, label, seeded(), guidance=1.5, guidance_rule="product")
        other = model.sample(5, label, seeded(), guidance=1.5, guidance_rule="scale")
        jacobi = model.sample(5, label, seeded(), guidance=1.5, decoding="jacobi")
    assert torch.equal(x, same) and not torch.allclose(x, plain) and not torch.allclose(x, other)
    torch.testing.assert_close(jacobi, x, rtol=1e-4, atol=1e-4)


def test_a_denoiser_learns_the_mean_of_what_is_left() -> None:
    """Of N(0, 1) with noise of deviation 1: half of what is seen; the flow's own step finds that, too, and the learned
    inverse, which draws what is clean in one evaluation."""
    torch.manual_seed(0)
    model = zoo.starflow((2,), width=8, blocks=1, deep=1, patch=1, noise=1.0, denoiser=True, inverse=True)
    x = torch.randn(4000, 2, generator=seeded())
    model.initialize(x)
    assert model.train().loss_unit is None and model.eval().loss_unit == "nats"
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(150):
        optimizer.zero_grad()
        rows = torch.randint(4000, (256,), generator=seeded(step))
        model.train().loss(x[rows], None, seeded(step)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        noisy = model.eval().sample(2000, None, seeded())
        clean = model.sample(2000, None, seeded(), denoise=True)
        at_once = model.sample(2000, None, seeded(), decoding="learned")
    assert noisy.std().item() == pytest.approx(math.sqrt(2), rel=0.1)
    slope = (clean * noisy).mean() / noisy.square().mean()
    assert slope.item() == pytest.approx(0.5, abs=0.06) and (clean - slope * noisy).std() < 0.15
    slope = (at_once * noisy).mean() / noisy.square().mean()
    assert slope.item() == pytest.approx(0.5, abs=0.06) and (at_once - slope * noisy).std() < 0.15
    for refused in (
        lambda: model.sample_and_log_prob(2, decoding="learned"),
        lambda: model.solved(2, decoding="learned"),
    ):
        with pytest.raises(ValueError, match="decoding: expected another than learned"):
            refused()
    with pytest.raises(ValueError, match="decoding: learned finds events without noise and guidance"):
        model.sample(2, decoding="learned", denoise=True)


@pytest.mark.parametrize("kind", ["tokens", "vectors"])
def test_a_text_is_heard_by_the_deep_map_token_by_token(kind: str, tmp_path: Path) -> None:
    text = Context(kind, 4, length=3)  # type: ignore[arg-type]
    model = small(Space((6,), context=text), dropout=0.2, memory_flat=True)  # type: ignore[arg-type]
    maps = [layer.net for layer in model.flow.transform.layers() if isinstance(layer, Causal)]
    assert model.config["prefix"] == 3 and [net.takes_context for net in maps] == [False, True]
    rows = torch.randn(40, 3, 4, generator=seeded()) if kind == "vectors" else torch.arange(120).reshape(40, 3) % 4
    said, x = Ragged(rows, torch.arange(40) % 4), torch.randn(40, 6, generator=seeded(1))
    density = model.log_prob(x, said)
    other = rows + 1.0 if kind == "vectors" else (rows + 1) % 4
    beyond = torch.arange(3) >= said.lengths[:, None]
    unread = torch.where(beyond.reshape(40, 3, *[1] * (rows.dim() - 2)), other, rows)
    assert torch.equal(model.log_prob(x, Ragged(unread, said.lengths)), density)  # what lies beyond is never read
    torch.testing.assert_close(model.log_prob(x[5:7], Ragged(rows[5:7, :2], said.lengths[5:7])), density[5:7])
    assert not torch.isclose(model.log_prob(x, Ragged(other, said.lengths)), density)[said.lengths > 0].any()
    torch.testing.assert_close(model.log_prob(x), model.log_prob(x, Ragged(rows, 0 * said.lengths)))
    plain, guided = (model.sample(40, said, seeded(), guidance=w) for w in (0.0, 1.5))
    same = torch.isclose(plain, guided).all(1)
    assert torch.equal(same, said.lengths == 0)
    rounds = model.sample(40, said, seeded(), guidance=1.5, decoding="jacobi")
    torch.testing.assert_close(rounds, guided, atol=1e-4, rtol=1e-4)
    data = split("texts", model.space, x, said, seed=0)
    config = TrainConfig(steps=2, batch_size=8, tensorboard=False, cpu=True)
    assert Trainer(model, data, config, out=tmp_path).run().step == 2
    for wrong, error, message in (
        (rows, TypeError, "context: expected a Ragged, as it is up to 3"),
        (
            Ragged(rows.repeat(1, 2, *[1] * (rows.dim() - 2)), said.lengths),
            ValueError,
            r"expected a context \(B, up to 3",
        ),
    ):
        with pytest.raises(error, match=message):
            model.log_prob(x, wrong)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="prefix: expected at most as many as the 6 tokens, got 7"):
        small(classes=2, prefix=7)
    with pytest.raises(ValueError, match="denoiser: expected False where noise is 0, got True"):
        small(denoiser=True)
    with pytest.raises(ValueError, match="can do without its context"):
        small(classes=2).sample(2, torch.tensor([0]), guidance=1.0)
    with pytest.raises(ValueError, match="decoding: expected a model that has learned its inverse"):
        small().sample(2, decoding="learned")
    with pytest.raises(ValueError, match="inverse: expected False if iterative"):
        zoo.tarflow((4,), noise=0.3, iterative=True, inverse=True)
    with pytest.raises(ValueError, match="prefix: expected as many tokens as the 3 of a text, or None; got 2"):
        small(Space((6,), context=Context("tokens", 5, length=3)), prefix=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patch: expected a common divisor"):
        small(patch=4)
