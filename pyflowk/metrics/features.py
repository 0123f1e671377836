"""A small classifier, trained here on the data's own labels, whose features and answers judge samples."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..ops.draw import draw_integers

WIDTH, FEATURES = 16, 64
BATCH = 128


class Classifier(nn.Module):
    r"""A network that tells the labels of events (B, \*shape), and the ``features`` (B, 64) that it tells them by.

    Pictures (C, H, W) go through three convolutions, anything else through two layers; ``Classifier.fit(x, labels)``
    trains one. Where no network trained on other pictures fits, as for digits, Frechet distance, precision and recall
    are those of its features; its answers say which classes samples cover, and whether they are what was asked for.
    Numbers compare only between samples that the same classifier has judged. Heusel et al., 2017, arXiv:1706.08500.

    >>> import torch
    >>> from pyflowk.metrics import Classifier
    >>> x = torch.cat((torch.zeros(50, 2), torch.ones(50, 2)))
    >>> judge = Classifier.fit(x, torch.arange(100) // 50, steps=50, generator=torch.Generator().manual_seed(0))
    >>> judge.accuracy(x, torch.arange(100) // 50)
    tensor(1., dtype=torch.float64)
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        require_counts("a classifier", classes=classes)
        self.shape, self.classes = tuple(shape), classes
        body: list[nn.Module]
        if len(shape) == 3:
            sizes = (shape[0], WIDTH, 2 * WIDTH, 2 * WIDTH)
            body = []
            for i, (inside, out) in enumerate(itertools.pairwise(sizes)):
                body += [
                    nn.Conv2d(inside, out, 3, stride=1 if i == 0 else 2, padding=1),
                    nn.GroupNorm(4, out),
                    nn.SiLU(),
                ]
            body += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * WIDTH, FEATURES), nn.SiLU()]
        else:
            body = [nn.Flatten(), nn.Linear(int(torch.Size(shape).numel()), 2 * FEATURES), nn.SiLU()]
            body += [nn.Linear(2 * FEATURES, FEATURES), nn.SiLU()]
        self.body, self.head = nn.Sequential(*body), nn.Linear(FEATURES, classes)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(
        cls,
        x: Tensor,
        labels: Tensor,
        *,
        classes: int | None = None,
        steps: int = 200,
        lr: float = 3e-3,
        generator: Generator | None = None,
    ) -> Classifier:
        """Train one on x (N, *shape) with labels (N,), in evaluation mode; the same for the same generator.

        Raises ValueError for labels that are not one a row, or not below ``classes``. Cost: ``steps`` batches of 128;
        on 8 x 8 digits some 1.5 s of one core, on 28 x 28 pictures some 10 s.
        """
        if x.dim() < 2 or labels.shape != x.shape[:1] or labels.is_floating_point() or not len(x):
            raise ValueError(
                f"expected rows (N, *shape) and integer labels (N,), got {tuple(x.shape)} and {tuple(labels.shape)} "
                f"{labels.dtype}"
            )
        count = int(labels.max()) + 1 if classes is None else classes
        if not 0 <= int(labels.min()) <= int(labels.max()) < count:
            raise ValueError(f"labels: expected 0 to {count - 1}, got {int(labels.min())} to {int(labels.max())}")
        device = "cpu" if generator is None else generator.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw_integers(0, 2**62, (1,), generator, device=device)))
            judge = cls(tuple(x.shape[1:]), count).to(x.device)
        rows = draw_integers(0, len(x), (steps, min(BATCH, len(x))), generator, device=device).to(x.device)
        judge.mean, judge.scale = x.float().mean(0), x.float().std().clamp(min=1e-6)
        optimizer = torch.optim.AdamW(judge.parameters(), lr)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
        with torch.enable_grad():
            for batch in rows:
                optimizer.zero_grad()
                F.cross_entropy(judge(x[batch]), labels[batch].long(), label_smoothing=0.05).backward()
                optimizer.step()
                plan.step()
        return judge.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes) of events."""
        return self.head(self.features(x))

    def features(self, x: Tensor, size: int = 1024) -> Tensor:
        """What the last layer sees of events (B, *shape): (B, 64)."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected events (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        parts = [self.body((part.float() - self.mean) / self.scale) for part in x.split(size)]
        return torch.cat(parts) if parts else x.new_empty((0, FEATURES), dtype=torch.float32)

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """The likeliest label (B,) of each event."""
        return self(x).argmax(1)

    def accuracy(self, x: Tensor, labels: Tensor) -> Tensor:
        """The share of events whose label is told right, in float64."""
        return (self.labels(x) == labels).double().mean()
