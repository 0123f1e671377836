"""Token flow: symbols by a continuous flow of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import torch
from torch import Generator, Tensor

from ..nets import SimplexField
from ..objectives import SimplexMatching
from ..paths import SimplexPath
from ..solvers import Guided, simplex_flow, uniform_grid
from ..space import Space
from .blocks import condition
from .model import Ability, GenerativeModel, SamplingOptions
from .option import LAYERS, Dropout, Option, Width
from .registry import register


@dataclass(frozen=True)
class TokenSampling(SamplingOptions):
    """How symbols are made of noise."""

    steps: Annotated[int, Option("evaluations of the network", 1, 1 << 16)] = 64
    temperature: Annotated[float, Option("of the law of each symbol: 0 takes the likeliest", 0)] = 1.0
    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0


class TokenModel(GenerativeModel):
    """Symbols that a :class:`pyflowk.nets.SimplexField` learns by cross-entropy, and samples in a continuous flow.

    In evaluation the loss is a bound in nats, of the diffusion with the same means; samples follow its flow, in few
    steps. With dropout every context may be None.
    """

    Sampling = TokenSampling

    def __init__(self, space: Space, net: SimplexField, dropout: float = 0.0) -> None:
        super().__init__(space)
        self.net, self.dropout = net, dropout

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset({Ability.LIKELIHOOD})

    @property
    def loss_unit(self) -> str | None:
        return None if self.training else "nats"

    def loss(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        if not self.training:
            return -self.log_prob(x, context, generator)
        context = self.check_batch(x, context)
        return SimplexMatching(dropout=self.dropout)(self.net, x.flatten(1), context, generator=generator)

    def log_prob(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        context = self.check_batch(x, context)
        return -SimplexMatching("bound")(self.net, x.flatten(1), context, generator=generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Samples, and what :meth:`log_prob` says of them: of the model, whatever the options."""
        x = self.sample(n, context, generator, **options)
        shape = x.shape[: x.dim() - len(self.space.shape)]
        return x, self.log_prob(x.reshape(-1, *self.space.shape), context, generator).reshape(shape)

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        found: Any = super().chosen(options)
        if found.guidance:
            Guided(self.net, found.guidance)
        return found

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.dropout else super().check_context(context, rows)

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        device = next(chain(self.parameters(), self.buffers())).device  # of a frozen model they are buffers
        like = torch.zeros(rows, self.space.dims, dtype=torch.int64, device=device)
        told = Guided(self.net, chosen.guidance) if chosen.guidance else None
        x = simplex_flow(
            self.net, like, uniform_grid(chosen.steps), told=told, temperature=chosen.temperature, context=context,
            generator=generator,
        )  # fmt: skip
        return x.reshape(-1, *self.space.shape)


@register("token_flow", takes=("symbols", "labels", "numbers"))
def token_flow(
    space: Space,
    *,
    width: Width = 128,
    depth: Annotated[int, Option("layers of the transformer", 1, LAYERS)] = 4,
    reach: Annotated[int, Option("places at either side that are seen at once", 0, 64)] = 2,
    dropout: Dropout = 0.0,
) -> TokenModel:
    """Token flow, symbols by a continuous flow whose state are their embeddings (Lee et al., 2026, arXiv:2602.16813).

    A symbol is a corner of a simplex under Gaussian noise, and a transformer learns by cross-entropy which corner it is
    from what learned embeddings make of the point: neither training nor samples hold a number for every symbol of every
    place, but for the chances. Times are such that symbols come out evenly. The loss in evaluation bounds the negative
    log-likelihood in nats. Samples take ``steps``; all places move together in each, and few steps do.

    >>> from pyflowk import zoo
    >>> from pyflowk.space import Space
    >>> zoo.token_flow(Space((6,), symbols=3), width=8, depth=1).sample(2, steps=4).shape
    torch.Size([2, 6])
    """
    if space.symbols is None or space.symbols < 2 or space.columns is not None:
        raise ValueError(f"token_flow takes rows of at least 2 symbols that all places share; got {space}")
    net = SimplexField(SimplexPath(space.symbols), width, depth, reach=reach, **condition(space, dropout))
    return TokenModel(space, net, dropout)
