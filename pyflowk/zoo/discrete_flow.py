"""Discrete flow matching: symbols that jump from noise to data."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from ..nets import ColumnField, Field, LeaveOneOut, TokenTransformer
from ..nets.attention import heads_of
from ..objectives import DiscreteMatching
from ..paths import SCHEDULES, MixturePath
from ..space import Space
from .blocks import condition
from .discrete_model import DiscreteModel
from .option import LAYERS, WIDTH, Dropout, Option, Width, one_of
from .registry import register


def _serves(name: str) -> bool:
    """Whether a schedule can say how likely symbols are data."""
    shares = SCHEDULES[name]().at(torch.tensor([0.0, 0.5], device="cpu"))
    return bool((shares.alpha + shares.sigma == 1).all() and shares.alpha[0] == 0)


PATHS = tuple(name for name in SCHEDULES if _serves(name))


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    timed, reach, heads = options["timed"], options["reach"], options["heads"]
    row = len(space.shape) == 1 and space.columns is None
    return {
        "heads": heads_of(options["width"]) if heads is None else heads,
        "timed": options["source"] == "uniform" if timed is None else timed,
        "reach": 2 * row if reach is None else reach,
    }


@register("discrete_flow", _choose, ("symbols", "levels", "variable", "labels", "numbers"))
def discrete_flow(
    space: Space,
    *,
    source: Annotated[str, one_of("noise: a symbol that says nothing, or any symbol", ("mask", "uniform"))] = "mask",
    path: Annotated[str, one_of("share of data at each time", PATHS)] = "condot",
    loss: Annotated[
        str, one_of("bound on the log-likelihood, or cross-entropy alone", ("elbo", "cross_entropy"))
    ] = "elbo",
    width: Width = 128,
    depth: Annotated[int, Option("layers of the transformer", 1, LAYERS)] = 4,
    heads: Annotated[int | None, Option("of attention; None: one for about 64 channels", 1, WIDTH)] = None,
    reach: Annotated[
        int | None, Option("a place sees symbols so far away at once, by a vector each; None: 2 of texts", 0, 64)
    ] = None,
    block: Annotated[int, Option("symbols of a block, rows being made by blocks; 0: all places at once", 0, WIDTH)] = 0,
    timed: Annotated[bool | None, Option("the transformer hears the time; None: where noise is uniform")] = None,
    dropout: Dropout = 0.0,
) -> DiscreteModel:
    """Discrete flow matching, symbols that jump from noise to data one by one (Gat et al., 2024, arXiv:2407.15595).

    A transformer that looks both ways sees a row of which some symbols are noise, and learns how likely each symbol of
    the data is at every place. Noise is a mask, which is Masked diffusion (Sahoo et al., 2024, arXiv:2406.07524), or,
    with ``source`` "uniform", any symbol, and the transformer learns what the others say of each place
    (:class:`pyflowk.nets.LeaveOneOut`). Rows are texts, pictures in order (levels are taken for symbols: their order is
    not known), or of several lengths, which are drawn first, or those of a table, whose columns have different symbols:
    texts, and numbers cut into bins. The loss bounds the negative log-likelihood and does not
    depend on ``path``, which says where samples spend their steps.

    Samples take ``steps`` calls of the network, in which symbols are drawn independently of each other: the more steps,
    the truer, and method "first_hitting" draws them one by one. "unmask" draws the surest first, which is likelier and
    less diverse than the data. With "mask" and ``psi`` or ``remask`` symbols can be drawn again, and ``complete`` draws
    what is not known, behind a prefix or in a gap. With ``dropout`` (0.1) samples can be drawn with ``guidance``, and
    everything can be asked without a context.

    >>> from pyflowk import zoo
    >>> from pyflowk.space import Space
    >>> zoo.discrete_flow(Space((6,), symbols=3), width=8, depth=1).sample(2, steps=4).shape
    torch.Size([2, 6])
    """
    symbols = space.levels or space.symbols or 1
    mixture = MixturePath(symbols, source, SCHEDULES[path]())
    grid = None if len(space.shape) == 1 else (space.dims // space.shape[-1], space.shape[-1])
    if space.sizes is not None:
        if source != "mask" or reach or block:
            got = f"{source=}, {reach=}, {block=}"
            raise ValueError(f"columns of a table expect source mask, reach 0 and no block; got {got}")
        net: Field = ColumnField(
            space.sizes, width, depth, heads=heads, time="sinusoidal" if timed else None, **condition(space, dropout)
        )
        return DiscreteModel(space, net, DiscreteMatching(mixture, loss, dropout))
    if block and (source != "mask" or timed):
        raise ValueError(f"block: needs source mask, of which no time is told; got {source=}, {timed=}")
    if block and (grid is not None or space.variable or space.dims % block):
        raise ValueError(f"block: expected rows of one length that is a multiple of {block}, got {space}")
    net = TokenTransformer(
        mixture.inputs, symbols, width, depth, heads, reach=reach or 0, grid=grid, block=block or None,
        time="sinusoidal" if timed else None, **condition(space, dropout),
    )  # fmt: skip
    net = net if source == "mask" else LeaveOneOut(net, mixture)
    return DiscreteModel(space, net, DiscreteMatching(mixture, loss, dropout, block or None))
