"""A field that sees sines: its tangents, its frequencies, and that it learns what a plain one does not."""

from __future__ import annotations

import pytest
import torch

from pyflowk.nets import Field, FourierField, MLPField
from pyflowk.ops.divergence import push_forward


def made(scale: float = 3.0) -> FourierField:
    torch.manual_seed(0)
    field = FourierField(2, 5, scale, lambda n: MLPField(n, 16, 2)).double()
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return field


def test_tangents_are_those_of_the_whole() -> None:
    x, e = torch.randn(2, 7, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, times = x[:, 0], torch.linspace(0, 1, 7, dtype=torch.float64)
    field = made()
    value, images = field.with_tangents(times, x, e)
    known, moved = push_forward(lambda x: field(times, x), x, e)
    torch.testing.assert_close((value, images), (known, moved))
    torch.testing.assert_close(field(times[:1], x[:1]), known[:1])
    assert field(times[:0], x[:0]).shape == (0, 2)


def test_frequencies_are_drawn_once_and_saved() -> None:
    field = made(10.0)
    lengths = field.frequencies.norm(dim=1)
    assert field.frequencies.shape == (5, 2) and 3 < lengths[0] < 30 and 0.03 < lengths[-1] < 1
    assert "frequencies" in field.state_dict() and "frequencies" not in dict(field.named_parameters())
    assert torch.equal(made(10.0).frequencies, field.frequencies)


def test_fine_structure_is_learned_in_few_steps() -> None:
    """A wave of length 0.8, from 300 steps: what is left of its variance, with frequencies and without."""
    left = []
    for scale in (8.0, 0.0):
        torch.manual_seed(0)
        field: Field = FourierField(1, 16, scale, lambda n: MLPField(n, 32, 2, "silu"))
        optimizer = torch.optim.Adam(field.parameters(), 3e-3)
        for _ in range(300):
            x = 4 * torch.rand(128, 1) - 2
            error = (field(torch.tensor(0.5), x) - torch.sin(8 * x)).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        left.append(2 * error.item())
    assert left[0] < 0.05 and left[1] > 0.5


def test_what_cannot_be() -> None:
    for arguments, words in (((0, 5, 1.0), "features"), ((2, 0, 1.0), "count"), ((2, 5, -1.0), "scale")):
        with pytest.raises(ValueError, match=f"FourierField expects {words} to be"):
            FourierField(*arguments, MLPField)
