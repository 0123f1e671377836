"""What a moving average of a model averages, copies, and shares with it."""

from __future__ import annotations

import torch
from torch import nn

from pyflowk import zoo
from pyflowk.training.ema import MovingAverage


class Odd(nn.Module):
    """Tensors of every kind, of which floating-point parameters alone have an average."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.table = nn.Parameter(torch.tensor([0, 1, 2]), requires_grad=False)
        self.places: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("places", torch.tensor([5, 6]), persistent=False)
        self.register_buffer("scale", torch.ones(()))
        self.follower, self.teacher = nn.Linear(1, 1), nn.Linear(1, 1)

    def move(self) -> None:
        with torch.no_grad():
            for p in (self.weight, self.phase, self.scale, self.follower.weight):
                p += 1
            for index in (self.table, self.places):
                index += 3


def test_weights_are_averaged_and_all_else_is_copied() -> None:
    model = Odd()
    average = MovingAverage(model, 0.5, copied=("follower",), shared=("teacher",))
    module = average.module
    average.update()
    model.move()
    average.update()  # with the decay 2/11
    assert torch.allclose(module.weight, torch.full((3,), 9 / 11)) and torch.allclose(
        module.phase.real, module.weight[:2]
    )
    assert module.table.tolist() == [3, 4, 5] and module.places.tolist() == [8, 9] and module.scale == 2
    assert torch.equal(module.follower.weight, model.follower.weight) and module.follower is not model.follower
    assert module.teacher is model.teacher


def test_index_tables_of_a_system_stay_whole() -> None:
    """Averages of indices, which torch's own AveragedModel makes of buffers, would be silently wrong."""
    model = zoo.maf((5,), blocks=2, width=8)
    tables = {name: b.clone() for name, b in model.named_buffers() if not b.is_floating_point()}
    average = MovingAverage(model, 0.9)
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        average.update()
    assert tables and all(torch.equal(b, tables[name]) for name, b in average.module.named_buffers() if name in tables)
    x = torch.randn(4, 5)
    weights = dict(average.module.state_dict())
    model.load_state_dict(weights)
    assert torch.equal(model.eval().log_prob(x), average.module.log_prob(x))
