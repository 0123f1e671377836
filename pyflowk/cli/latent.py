"""Walks through the latent space of a trained model: between two events, and along what tells two classes apart."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..datasets import Dataset
from ..zoo import GenerativeModel

STEPS = 8
"""Points of a walk: one row of the picture."""
ENCODED = 512
"""Events that are encoded at a time."""


@torch.no_grad()
def interpolate(model: GenerativeModel, data: Dataset, walks: int, label: int | None, generator: Generator) -> Tensor:
    """Walks between the latents of pairs of test events, by :func:`arc` or geodesics of a manifold: (walks * STEPS,
    *shape), one after the other.

    ``label`` picks the class of the events; without it a model of labels walks inside each class in turn, and any other
    from any event to any other. Both ends come back as the events they are.
    """
    if label is None and model.space.classes is None:
        picked = torch.arange(2 * walks) % len(data.test)
    else:
        kinds = [label] if label is not None else list(range(model.space.classes or 0))
        turns = [divmod(i, len(kinds)) for i in range(walks)]
        picked = torch.cat([_of_class(data, kinds[which], 2, skip=2 * turn) for turn, which in turns])
    x, context = data.take("test", picked)
    context = context if model.space.context is not None else None
    z = model.encode(x, context, generator)
    start, end = z[0::2], z[1::2]
    along, geometry = torch.linspace(0, 1, STEPS)[1:-1], model.space.geometry
    if geometry is None:
        between = arc(start, end, along)
    else:
        way = geometry.log(start, end)
        between = torch.stack([geometry.travel(start, way, float(s))[0] for s in along], 1)
    path = torch.cat((start[:, None], between, end[:, None]), 1)
    context = None if context is None else context[0::2][torch.arange(walks).repeat_interleave(STEPS)]
    return model.decode(path.flatten(0, 1), context, generator)


def arc(a: Tensor, b: Tensor, along: Tensor) -> Tensor:
    r"""Points between a and b (N, \*event) at the fractions ``along`` (T,) of the way: (N, T, \*event).

    The direction turns evenly, on the great circle through both, and the length goes evenly from that of a to that of
    b: Gaussian noise of many dimensions lies close to a sphere, and a straight line would cut through its middle,
    where there are no data. From or to zero, and between parallel vectors, that is the straight line; between opposite
    ones the circle is one of many.

    >>> import torch
    >>> from pyflowk.cli.latent import arc
    >>> arc(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([0.5]))
    tensor([[[1.4142, 1.4142]]])
    """
    flat = torch.stack((a.flatten(1), b.flatten(1))).double()
    length = flat.norm(dim=2, keepdim=True)
    unit = flat / length.clamp(min=torch.finfo(flat.dtype).tiny)
    unit = torch.where(length > 0, unit, unit.flip(0))  # zero has any direction: the other's
    first, second = unit
    cosine = (first * second).sum(1, keepdim=True).clamp(-1, 1)
    sideways = second - cosine * first
    other = torch.zeros_like(first).scatter(1, first.abs().argmin(1, keepdim=True), 1.0)  # for opposite vectors
    other = other - (other * first).sum(1, keepdim=True) * first
    sideways = torch.where(sideways.norm(dim=1, keepdim=True) > 1e-9, sideways, other)
    sideways = sideways / sideways.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    fraction = along.double()[None, :, None]
    angle = fraction * torch.atan2((second * sideways).sum(1, keepdim=True).clamp(min=0), cosine)[:, None]
    size = torch.lerp(length[0][:, None], length[1][:, None], fraction)
    points = size * (angle.cos() * first[:, None] + angle.sin() * sideways[:, None])
    return points.to(a.dtype).reshape(len(a), len(along), *a.shape[1:])


@torch.no_grad()
def manipulate(
    model: GenerativeModel, data: Dataset, walks: int, classes: tuple[int, int], generator: Generator
) -> Tensor:
    """Test events of one class moved along the difference of two classes' mean latents: (walks * STEPS, *shape).

    The means are those of the training events; the last point of a walk has gone once the whole difference.
    """
    means = [_mean_latent(model, data, kind, generator) for kind in classes]
    x, _ = data.take("test", _of_class(data, classes[0], walks))
    z = model.encode(x, None, generator)
    along = torch.linspace(0, 1, STEPS).reshape(-1, *[1] * (z.dim() - 1))
    path = torch.cat([start + along * (means[1] - means[0]) for start in z])
    return model.decode(path, None, generator)


def _labels(data: Dataset) -> Tensor:
    if data.test_context is None:
        raise ValueError(f"expected data with labels, but {data.name} has none")
    labels: Tensor = data.test_context[:]
    return labels


def _of_class(data: Dataset, kind: int, count: int, skip: int = 0) -> Tensor:
    """Rows of ``count`` test events of a class, from the ``skip``-th on, in a circle."""
    rows = (_labels(data) == kind).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError(f"{data.name} has no test events of class {kind}")
    return rows[torch.arange(skip, skip + count) % len(rows)]


def _mean_latent(model: GenerativeModel, data: Dataset, kind: int, generator: Generator) -> Tensor:
    assert data.train_context is not None
    rows = (data.train_context[:] == kind).nonzero().flatten()
    latents = [model.encode(data.take("train", part)[0], None, generator) for part in rows.split(ENCODED)]
    return torch.cat(latents).mean(0)
