"""What else can be said of a model's samples: by a classifier of the data's labels, by the training data, by the way
that they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..datasets import Dataset
from ..datasets.rows import OnDemand
from ..metrics import Classifier, Measure, compare_features, data_copying, path_ratio, straightness, total_variation
from ..space import Paired
from ..zoo import Ability, GenerativeModel

ROWS = 20_000
"""Training rows, at most, that a classifier learns from."""
KNOWN = 5_000
"""Training rows, at most, among which copies are looked for."""
WAYS, POINTS = 200, 21
BEST = {"data copying": "copies if above 0.5", "straightness": "0 is straight", "path ratio": "1 is straight"}
"""How to read what has no other scale."""


def judge(
    model: GenerativeModel, data: Dataset, samples: Tensor, reference: Tensor, asked: Any, generator: Generator
) -> dict[str, Measure]:
    """What fits samples of the model and as many test rows, by name; ``asked`` are the contexts samples were drawn for.

    - Data with labels: Frechet distance, precision and coverage in the features of a classifier that learns them; how
      much the frequencies of classes differ; of a model that is given labels, how often the classifier agrees.
    - Numbers: how often a sample is nearer to the training data than a test row is, by numbers or by features.
    - Rows of real numbers that move from noise to data: straightness, over the mean squared chord, and path ratio of
      their ways.

    Each but the last stands beside what data give; 0 and 1 are those of straight ways. Symbols, and data that are on a
    disk or no longer there, are left out. Cost: some seconds, most of them for the classifier.
    """
    found: dict[str, Measure] = {}
    space, train = data.space, data.train
    if space.kind != "symbols" and isinstance(train, Tensor) and len(train) and len(samples) > 1:
        view: Callable[[Tensor], Tensor] = torch.Tensor.float
        labels = data.train_context
        if space.classes is not None and isinstance(labels, Tensor):
            classifier = Classifier.fit(train[:ROWS], labels[:ROWS], classes=space.classes, generator=generator)
            found |= _by_class(classifier, samples, reference, asked, data, generator)
            view = classifier.features
        copied = data_copying(view(samples), view(train[:KNOWN]), view(reference)).item()
        count = len(samples), len(reference)
        found["data copying"] = Measure(copied, math.sqrt((sum(count) + 1) / (12 * count[0] * count[1])), 0.5)
    if (
        Ability.TRAJECTORY in model.abilities
        and space.is_vector
        and space.manifold is None
        and not isinstance(train, Paired | OnDemand)
    ):
        found |= _by_way(model, asked, generator)
    return found


def _by_class(
    classifier: Classifier, samples: Tensor, reference: Tensor, asked: Any, data: Dataset, generator: Generator
) -> dict[str, Measure]:
    near = compare_features(classifier.features(samples), classifier.features(reference), generator)
    found = {f"features, {name.replace('_', ' ')}": measure for name, measure in near.items()}
    told, known = classifier.labels(samples), classifier.labels(reference)
    half = len(known) // 2
    if half:
        noise = total_variation(known[:half], known[half:]).item() / math.sqrt(2)  # as many rows would halve it
        found["class frequencies"] = Measure(total_variation(told, known).item(), noise=noise)
    if isinstance(asked, Tensor) and not asked.is_floating_point():
        share = (told == asked).double()
        right = classifier.accuracy(*data.take("test", slice(len(reference)))).item()
        found["class as asked"] = Measure(share.mean().item(), share.std().item() / math.sqrt(len(share)), right)
    return found


def _by_way(model: GenerativeModel, asked: Any, generator: Generator) -> dict[str, Measure]:
    given = None if asked is None else asked[torch.arange(WAYS) % len(asked)]
    device = next(model.parameters()).device
    with torch.no_grad():
        way = model.trajectory(
            WAYS, torch.linspace(0, 1, POINTS).tolist(), None if given is None else given.to(device), generator
        ).cpu()
    found = {}
    chord = (way[-1] - way[0]).double().square().flatten(1).sum(1).mean()
    for name, values in (("straightness", straightness(way) / chord), ("path ratio", path_ratio(way))):
        found[name] = Measure(values.mean().item(), values.std().item() / math.sqrt(WAYS))
    return found
