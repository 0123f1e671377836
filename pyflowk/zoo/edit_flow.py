"""Edit flows: sequences of any length, made by insertions, deletions and substitutions."""

from __future__ import annotations

import math
from typing import Annotated

from ..nets import EditTransformer
from ..objectives import EditMatching
from ..paths import (
    Aligner,
    Begun,
    EditPath,
    EditSource,
    NoiseTokens,
    Polynomial,
    UniformTimes,
    closest,
    empty,
    leftmost,
)
from ..space import Space
from .blocks import condition
from .edit_model import EditModel
from .option import LAYERS, Dropout, Option, Width, one_of
from .registry import register

TIMES = ("edit", "uniform")
ALIGNMENTS: dict[str, Aligner] = {"closest": closest, "leftmost": leftmost}
LATEST = 1 - 1e-3
"""The last time that is looked at where times are drawn: there weights grow without bound."""


@register("edit_flow", takes=("symbols", "variable", "labels", "numbers"))
def edit_flow(
    space: Space,
    *,
    width: Width = 128,
    depth: Annotated[int, Option("layers of the transformer", 1, LAYERS)] = 4,
    reach: Annotated[int, Option("a place sees symbols so far away at once, by a vector each", 0, 64)] = 2,
    power: Annotated[float, Option("of the time, which is the share of edits that are made", 1, 100)] = 3.0,
    noise: Annotated[int, Option("tokens that a sequence starts from; 0: none, all are inserted", 0, 1 << 16)] = 0,
    alignment: Annotated[str, one_of("which edits make data of noise: the fewest, or from the left", ALIGNMENTS)] = (
        "closest"
    ),
    spread: Annotated[float, Option("rate at which an edit takes along those beside it", least=0)] = 0.0,
    times: Annotated[str, one_of("when a row is looked at: before one of its edits, or at any time", TIMES)] = "edit",
    clamp: Annotated[float, Option("largest weight of a time, if any is as likely", above=0)] = 20.0,
    begun: Annotated[
        float, Option("share of rows that are learned from their own beginning, for prefixes", 0, 1)
    ] = 0.0,
    dropout: Dropout = 0.0,
) -> EditModel:
    """Edit flow, sequences by insertions, deletions and substitutions (Havasi et al., 2025, arXiv:2506.09018).

    A sequence starts without any token, or as ``noise`` uniform ones, and a transformer says of each place what is to
    be inserted to its right, deleted or substituted there, and how soon: by the time t the share t^``power`` of the
    edits is made. The loss is a bound in nats, which pays for the length, too; each row is looked at just before one of
    its edits, or, as published, at a uniform time, whose weight is at most ``clamp``: edits may ``spread`` then.
    Samples take ``steps``, which are cut where many edits are due; ``guidance`` wants a model with ``dropout``, a
    ``corrector`` one without noise, and a ``prefix`` is gone on with better by one that has ``begun`` so in training.

    >>> from pyflowk import zoo
    >>> from pyflowk.space import Space
    >>> zoo.edit_flow(Space((6,), symbols=3, variable=True), width=16, depth=1).sample(2, steps=4).values.shape[0]
    2
    """
    if not space.variable or len(space.shape) != 1:
        raise ValueError(
            f"edit_flow takes sequences (L,) of symbols of several lengths (a text by --lines); got {space}"
        )
    assert space.symbols is not None
    net = EditTransformer(space.symbols, width, depth, insertions=not noise, reach=reach, **condition(space, dropout))
    source: EditSource = NoiseTokens(noise, space.symbols) if noise else empty
    path, at = EditPath(Polynomial(power), spread), None if times == "edit" else UniformTimes(most=LATEST)
    if spread and at is None:
        raise ValueError(f"spread: expected 0 unless times are uniform, as edits do not come one by one; got {spread}")
    objective = EditMatching(
        path, Begun(source, begun) if begun else source, ALIGNMENTS[alignment] if noise else leftmost,
        at, clamp if at else math.inf, dropout,
    )  # fmt: skip
    return EditModel(space, net, objective, source)
