"""A system of sequences whose length changes, which are learned and made by edits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any

from torch import Generator, Tensor

from .._checks import require_counts
from ..nets import EditTransformer
from ..objectives import EditMatching
from ..paths import EditSource, empty
from ..paths.edits import joined
from ..solvers import EditWalk, uniform_grid, walk_edits
from ..space import Ragged, Space
from .blocks import beginning
from .model import Ability, GenerativeModel, SamplingOptions
from .option import Option


@dataclass(frozen=True)
class EditSampling(SamplingOptions):
    """How a sequence is walked to."""

    steps: Annotated[int, Option("steps from noise to the sample, one evaluation each", 1, 1 << 16)] = 64
    most: Annotated[float | None, Option("edits of a row to expect in a step, which else is cut", above=0)] = 0.3
    temperature: Annotated[float, Option("divides the logits of tokens", least=0)] = 1.0
    top_p: Annotated[float, Option("share of the likeliest tokens to draw from", above=0, most=1)] = 1.0
    guidance: Annotated[float, Option("how far beyond the context to go; 0: not at all", -1, 100)] = 0.0
    corrector: Annotated[float, Option("strength of edits that are taken back and made again", least=0)] = 0.0
    prefix: Annotated[str, Option("what each text begins with")] = ""


class EditModel(GenerativeModel):
    """A model whose field of edits learns by a :class:`pyflowk.objectives.EditMatching`, and whose samples walk by it.

    ``log_prob`` is minus the bound of that loss on rows from ``noise``, before one edit of each, right on average over
    draws; a path with spread has none. In evaluation the loss is that bound, in training what the objective says.
    """

    Sampling = EditSampling

    def __init__(self, space: Space, net: EditTransformer, objective: EditMatching, noise: EditSource = empty) -> None:
        super().__init__(space)
        self.net, self.objective, self.noise = net, objective, noise

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset() if self.objective.path.spread else frozenset({Ability.LIKELIHOOD})

    @property
    def loss_unit(self) -> str | None:
        bound = self.objective.times is None or (not self.training and Ability.LIKELIHOOD in self.abilities)
        return "nats" if bound else None

    def loss(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        if Ability.LIKELIHOOD in self.abilities and not self.training:
            return -self.log_prob(x, context, generator)
        return self.objective(self.net, x, self.check_batch(x, context), generator=generator)

    def log_prob(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        self.require(Ability.LIKELIHOOD)
        bound = replace(self.objective, source=self.noise, times=None, clamp=math.inf, dropout=0.0)
        return -bound(self.net, x, self.check_batch(x, context), generator=generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Ragged, Tensor]:
        """Samples, and what :meth:`log_prob` says of them: of the model, whatever the options."""
        self.require(Ability.LIKELIHOOD)
        x = self.sample(n, context, generator, **options)
        return x, self.log_prob(x, context, generator)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: EditSampling) -> Ragged:
        return self.walk(rows, context, generator, chosen).x

    def walk(
        self, rows: int, context: Any = None, generator: Generator | None = None, chosen: EditSampling = EditSampling()
    ) -> EditWalk:
        """So many samples, and what became of the edits on their way."""
        require_counts("walk", 0, rows=rows)
        device = next(chain(self.parameters(), self.buffers())).device  # of a frozen model they are buffers
        prefix = beginning(self.space, chosen.prefix).to(device)
        known = Ragged(prefix.expand(rows, -1), prefix.new_tensor(len(prefix)).expand(rows))
        x0 = joined(known, self.noise(known, generator))
        longest = self.space.shape[0]
        walk = walk_edits(
            self.net, x0, self.objective.path, uniform_grid(chosen.steps), longest=max(longest, x0.values.shape[1]),
            context=context, generator=generator, kept=len(prefix), most=chosen.most or math.inf,
            temperature=chosen.temperature, top_p=chosen.top_p, guidance=chosen.guidance, corrector=chosen.corrector,
        )  # fmt: skip
        over = (walk.x.lengths - longest).clamp(min=0)  # what is left of noise that is longer than data
        x = Ragged(walk.x.values[:, :longest], walk.x.lengths - over)
        return walk._replace(x=x, dropped=walk.dropped + over)
