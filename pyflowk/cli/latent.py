"""Walks through the latent space of a trained flow: between two events, and along what tells two classes apart."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..datasets import Dataset
from ..transforms.base import call
from ..zoo import FlowModel

STEPS = 8
"""Points of a walk: one row of the picture."""
ENCODED = 512
"""Events that are encoded at a time."""


@torch.no_grad()
def interpolate(model: FlowModel, data: Dataset, walks: int, label: int | None, generator: Generator) -> Tensor:
    """Straight lines between the latents of pairs of test events: (walks * STEPS, *shape), a walk after the other.

    ``label`` picks the class of the events; without it a conditional model walks inside each class in turn, and an
    unconditional one from any event to any other. Both ends come back as the events they are.
    """
    if label is None and model.classes is None:
        picked = torch.arange(2 * walks) % len(data.test)
    else:
        kinds = [label] if label is not None else list(range(model.classes or 0))
        turns = [divmod(i, len(kinds)) for i in range(walks)]
        picked = torch.cat([_of_class(data, kinds[which], 2, skip=2 * turn) for turn, which in turns])
    context = _labels(data)[picked] if model.conditional else None
    z = encode(model, data.test[picked], context, generator)
    along = torch.linspace(0, 1, STEPS).reshape(-1, *[1] * (z.dim() - 1))
    path = torch.cat([torch.lerp(a, b, along) for a, b in zip(z[0::2], z[1::2], strict=True)])
    return decode(model, path, None if context is None else context[0::2].repeat_interleave(STEPS, 0))


@torch.no_grad()
def manipulate(model: FlowModel, data: Dataset, walks: int, classes: tuple[int, int], generator: Generator) -> Tensor:
    """Test events of one class moved along the difference of two classes' mean latents: (walks * STEPS, *shape).

    The means are those of the training events; the last point of a walk has gone once the whole difference.
    """
    means = [_mean_latent(model, data, kind, generator) for kind in classes]
    x = data.test[_of_class(data, classes[0], walks)]
    z = encode(model, x, None, generator)
    along = torch.linspace(0, 1, STEPS).reshape(-1, *[1] * (z.dim() - 1))
    path = torch.cat([start + along * (means[1] - means[0]) for start in z])
    return decode(model, path, None)


def encode(model: FlowModel, x: Tensor, context: Tensor | None, generator: Generator) -> Tensor:
    """The latents of events."""
    return call(model.flow.transform, x, context, generator)[0]


def decode(model: FlowModel, z: Tensor, context: Tensor | None) -> Tensor:
    """The events of latents."""
    return model.flow.transform.inverse(z, context)[0]


def _labels(data: Dataset) -> Tensor:
    if data.test_labels is None:
        raise ValueError(f"expected data with labels, but {data.name} has none")
    return data.test_labels


def _of_class(data: Dataset, kind: int, count: int, skip: int = 0) -> Tensor:
    """Rows of ``count`` test events of a class, from the ``skip``-th on, in a circle."""
    rows = (_labels(data) == kind).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError(f"{data.name} has no test events of class {kind}")
    return rows[torch.arange(skip, skip + count) % len(rows)]


def _mean_latent(model: FlowModel, data: Dataset, kind: int, generator: Generator) -> Tensor:
    assert data.train_labels is not None
    rows = (data.train_labels == kind).nonzero().flatten()
    return torch.cat([encode(model, data.train[part], None, generator) for part in rows.split(ENCODED)]).mean(0)
