"""Causal transformers decoded in one call: token after token, keys and values of earlier ones kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._router import FusedOp
from .affine_coupling import ADDITIVE, BOUNDS, log_scale
from .dtypes import state_dtype
from .guidance import GUIDANCE_RULES

__all__ = ["Lead", "TransformerSizes", "causal_decode", "pack_transformer"]

PANEL = 64  # kPanel of csrc/math/causal_decode.h
SOFTPLUS = 5  # Bound::Softplus of csrc/math/affine.h
SOFT_ONE = 0.541324854612918
"""What softplus makes 1 of."""
# ---- how weights lie -------------------------------------------------------------------------------------------------


class TransformerSizes(NamedTuple):
    """What a transformer is beside its weights. ``norm``: 0 of means and variances, 1 of mean squares."""

    width: int
    heads: int
    kv_heads: int
    hidden: int
    depth: int
    norm: int = 0
    gated: bool = False
    qk_norm: bool = False

    @property
    def qkv(self) -> int:
        """Queries, keys and values, in numbers of a token."""
        return self.width + 2 * self.kv_heads * (self.width // self.heads)


def pack_transformer(parameters: Sequence[Tensor]) -> Tensor:
    """Lay out the weights of a transformer for :func:`causal_decode`, (size,), matrices in panels of 64 units.

    They come in the order in which they are used: weight and bias of the layer that tokens enter by; of every layer its
    first norm, queries, keys and values in one, the gains of queries and of keys if these are normed, the output, the
    second norm, and both layers of the perceptron; the last norm and the last layer.

    >>> pack_transformer([torch.ones(3, 2), torch.ones(3)]).shape
    torch.Size([192])
    """
    parts, after_matrix = [], False
    for parameter in parameters:
        rest = -parameter.shape[0] % PANEL
        if parameter.dim() == 2:
            panels = F.pad(parameter, (0, 0, 0, rest)).unflatten(0, (-1, PANEL))
            parts.append(panels.mT.flatten())
        else:
            parts.append(F.pad(parameter, (0, rest)) if after_matrix else parameter)
        after_matrix = parameter.dim() == 2
    return torch.cat(parts)


class _Reader:
    """The weights again, in their order."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.at = weights, 0

    def vector(self, size: int) -> Tensor:
        self.at += size
        return self.weights[self.at - size : self.at]

    def linear(self, into: int, out: int) -> Callable[[Tensor], Tensor]:
        whole = out + -out % PANEL
        weight = self.vector(into * whole).reshape(-1, into, PANEL).mT.reshape(whole, into)[:out]
        bias = self.vector(whole)[:out]
        return lambda h: F.linear(h, weight, bias)

    def norm(self, sizes: TransformerSizes) -> Callable[[Tensor], Tensor]:
        gain = self.vector(sizes.width)
        if sizes.norm:
            return lambda h: F.rms_norm(h, gain.shape, gain, 1e-6)
        bias = self.vector(sizes.width)
        return lambda h: F.layer_norm(h, gain.shape, gain, bias, 1e-5)


def _shape(sizes: Sequence[int], norm: int, gated: bool, qk_norm: bool) -> TransformerSizes:
    width, heads, kv_heads, hidden, depth = sizes
    return TransformerSizes(width, heads, kv_heads, hidden, depth, norm, gated, qk_norm)


def _size(features: int, sizes: TransformerSizes, out: int) -> int:
    """How many numbers the weights are."""
    matrices = [(sizes.width, sizes.qkv), (sizes.width, sizes.width)]
    matrices += [(sizes.width, (1 + sizes.gated) * sizes.hidden), (sizes.hidden, sizes.width)]
    ends = [(features, sizes.width), (sizes.width, out)]
    norm = sizes.width * (1 if sizes.norm else 2)
    gains = 2 * (sizes.width // sizes.heads) if sizes.qk_norm else 0
    in_all = [(i + 1) * (o + -o % PANEL) for i, o in matrices * sizes.depth + ends]
    return sum(in_all) + sizes.depth * (2 * norm + gains) + norm


# ---- the op ----------------------------------------------------------------------------------------------------------


def _passes(
    sizes: TransformerSizes, weights: Tensor, features: int, out: int, rotation: Tensor, temperature: float
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The first layer, and what makes parameters (B, out) of the vector (B, width) at each next place."""
    reader = _Reader(weights)
    first = reader.linear(features, sizes.width)
    layers = []
    for _ in range(sizes.depth):
        parts = [reader.norm(sizes), reader.linear(sizes.width, sizes.qkv)]
        gains = [reader.vector(sizes.width // sizes.heads) for _ in range(2 * sizes.qk_norm)]
        parts += [reader.linear(sizes.width, sizes.width), reader.norm(sizes)]
        parts += [
            reader.linear(sizes.width, (1 + sizes.gated) * sizes.hidden),
            reader.linear(sizes.hidden, sizes.width),
        ]
        layers.append((parts, gains))
    last = reader.norm(sizes), reader.linear(sizes.width, out)
    past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]

    def through(h: Tensor) -> Tensor:
        place, middle = len(past[0]), sizes.hidden
        for (parts, gains), seen in zip(layers, past):
            norm, qkv, output, second_norm, up, down = parts
            heads = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
            q, k, v = qkv(norm(h)).unflatten(1, (sum(heads), -1)).split(heads, 1)  # (B, heads, d)
            if gains:
                q, k = (F.rms_norm(part, gain.shape, gain, 1e-6) for part, gain in zip((q, k), gains))
            if rotation.shape[1]:
                q, k = (_turned(part, *rotation[:, place]) for part in (q, k))
            seen.append((k, v))
            keys, values = (
                torch.stack(part, 2).repeat_interleave(sizes.heads // sizes.kv_heads, 1) for part in zip(*seen)
            )
            logits = (keys @ q.unsqueeze(3)).squeeze(3) / (q.shape[2] ** 0.5 * temperature)
            mixed = (torch.softmax(logits, 2).unsqueeze(2) @ values).flatten(1)
            h = h + output(mixed)
            u = up(second_norm(h))
            h = h + down(F.silu(u[:, :middle]) * u[:, middle:] if sizes.gated else F.gelu(u, approximate="tanh"))
        return last[1](last[0](h))

    return first, through


def _turned(v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = v.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def _formula(
    z: Tensor, ahead: Tensor, shift: Tensor, weak_ahead: Tensor, weak_shift: Tensor, guides: Tensor, places: Tensor,
    rotation: Tensor, weights: Tensor, sizes: Sequence[int], norm: int, gated: bool, qk_norm: bool, bound: int,
    limit: float, guidance: int, temperature: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The op in plain torch: the reference of the kernel, and what gradients go through."""
    tokens, features = z.shape[1:]
    front, out = ahead.shape[1], features if bound == ADDITIVE else 2 * features
    shape = _shape(sizes, norm, gated, qk_norm)
    branches = [(ahead, shift, *_passes(shape, weights, features, out, rotation, 1.0))]
    if guidance:
        branches.append((weak_ahead, weak_shift, *_passes(shape, weights, features, out, rotation, temperature)))
    x = [] if front else [z[:, 0]]
    total = z.new_zeros(z.shape[0])
    for place in range(front + tokens - 1):
        found = []
        for lead, row, first, through in branches:
            h = lead[:, place] if place < front else first(x[place - front]) + (row if row.shape[1] else 0)
            found.append(through(h + places[place] if places.shape[1] else h))
        if place + 1 < front:
            continue
        noise = z[:, len(x)]
        if bound == ADDITIVE:
            x.append(noise + found[0])
            continue
        gaussians = [_gaussian(p, bound, limit) for p in found]
        s, mean = gaussians[0]
        if guidance:
            s, mean = [*GUIDANCE_RULES.values()][guidance - 1](gaussians[0], gaussians[1], guides[len(x)])
        x.append(noise * s.exp() + mean)
        total = total + s.sum(1)
    return torch.stack(x, 1), total


def _gaussian(params: Tensor, bound: int, limit: float) -> tuple[Tensor, Tensor]:
    if bound != SOFTPLUS:
        return log_scale(params[:, 0::2], bound, limit), params[:, 1::2]
    clipped = limit * torch.tanh(params / limit) if limit else params
    return F.softplus(clipped[:, 0::2] + SOFT_ONE).log(), clipped[:, 1::2]


def _check(
    z: Tensor, ahead: Tensor, shift: Tensor, weak_ahead: Tensor, weak_shift: Tensor, guides: Tensor, places: Tensor,
    rotation: Tensor, weights: Tensor, sizes: Sequence[int], norm: int, gated: bool, qk_norm: bool, bound: int,
    limit: float, guidance: int, temperature: float,
) -> None:  # fmt: skip
    """What `csrc/bind/causal_decode.cpp` checks, for the paths that do not go through it."""
    if z.dtype != state_dtype(z):
        raise TypeError(f"causal_decode: z must be float32 or float64; got {z.dtype}")
    if z.ndim != 3 or z.shape[1] < 1 or z.shape[2] < 1:
        raise ValueError(f"causal_decode: z must be (B, T, D); got {tuple(z.shape)}")
    width, heads, kv_heads = sizes[:3]
    if len(sizes) != 5 or min(sizes) < 1 or width % heads or heads % kv_heads:
        raise ValueError(
            "causal_decode: sizes must be the width, heads that divide it, heads of keys that divide these, hidden "
            f"units and layers; got {tuple(sizes)}"
        )
    if guidance and bound == ADDITIVE:
        raise ValueError("causal_decode: guidance wants Gaussian tokens, not an additive map")
    rows, tokens, features = z.shape
    front = ahead.shape[1] if ahead.ndim == 3 else 0
    seen = front + tokens - 1
    if seen < 1:
        raise ValueError("causal_decode: expected 2 tokens or more where nothing stands in front; got 1")
    shape = _shape(sizes, norm, gated, qk_norm)
    size = _size(features, shape, features if bound == ADDITIVE else 2 * features)
    wanted = [
        ("ahead", ahead, (rows, front, width)),
        ("shift", shift, (rows, width)),
        ("places", places, (seen, width)),
    ]
    wanted += [("rotation", rotation, (2, seen, width // heads // 2)), ("weights", weights, (size,))]
    if guidance:
        wanted += [("weak_ahead", weak_ahead, (rows, front, width)), ("weak_shift", weak_shift, (rows, width))]
        wanted += [("guides", guides, (tokens,))]
    for what, t, expected in wanted:
        if t.dtype != z.dtype:
            raise TypeError(f"causal_decode: {what} must be {z.dtype}; got {t.dtype}")
        if t.device != z.device:
            raise ValueError(f"causal_decode: z and {what} must be on one device; got {z.device} and {t.device}")
        none = t.ndim == len(expected) > 1 and t.shape[1] == 0
        if t.shape != expected and not none:
            raise ValueError(f"causal_decode: {what} must be {expected}; got {tuple(t.shape)}")


_op = FusedOp(
    "causal_decode",
    "(Tensor z, Tensor ahead, Tensor shift, Tensor weak_ahead, Tensor weak_shift, Tensor guides, Tensor places, "
    "Tensor rotation, Tensor weights, int[] sizes, int norm, bool gated, bool qk_norm, int bound, float limit, "
    "int guidance, float temperature) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda z, *rest: (z.new_empty(z.shape), z.new_empty(z.shape[:1])),
    shared=("guides", "places", "rotation", "weights"),
    expand_below=0,
)


class Lead(NamedTuple):
    """What a transformer is told of each event: vectors (B, F, width) in front of its tokens, one (B, width) added to
    each of them, or none, (B, 0)."""

    ahead: Tensor
    shift: Tensor


def causal_decode(
    z: Tensor,
    lead: Lead,
    places: Tensor,
    rotation: Tensor,
    weights: Tensor,
    sizes: TransformerSizes,
    *,
    bound: str = "none",
    limit: float = 1.0,
    weak: Lead | None = None,
    guides: Tensor | None = None,
    rule: str = "log_scale",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Draw all tokens of an event, :math:`x_i = z_i e^{s_i} + t_i`, with s_i and t_i told by those before them.

    A causal transformer sees F vectors in front of the tokens and then tokens 0 to T - 2, each brought to its width by
    a linear layer; what comes out at place F - 1 + i are the parameters of token i, :math:`(s, t)` of every element in
    turn, s bounded as in :func:`affine_coupling`, or t alone with bound "additive". With bound "softplus" it is
    :math:`e^s = \mathrm{softplus}(r + 0.5413)` of the raw r, r and t both clipped by :math:`c \tanh(r / c)` before, c
    the ``limit``, unless that is 0. With F = 0 the first token stays as it is.

    Args:
        z: (B, T, D), float32 or float64, as are all others.
        lead: what stands in front of each event's tokens, and what is added to them.
        places: (F + T - 1, width), added at each place; or (0, 0).
        rotation: cosines and sines, (2, F + T - 1, width / heads / 2), by which queries and keys are turned, pairs i
            and i + width / heads / 2; or (2, 0, 0).
        weights: as :func:`pack_transformer` lays them out.
        sizes: of the transformer: pre-norm, as :class:`pyflowk.nets.CausalTransformer`.
        weak: what ``guide`` goes away from by a ``rule``, with weights ``guides`` (T,); its logits are divided by the
            ``temperature``.

    Returns:
        x (B, T, D) and the sums (B,) of s. Gradients go through the formula, in as much memory as a loop in torch.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; an unknown bound or rule.

    Cost: that of the transformer for all places, once more with ``weak``; memory for the keys and values of 12 events.
    On a GPU it is the plain formula.

    >>> sizes = TransformerSizes(width=8, heads=2, kv_heads=2, hidden=32, depth=1)
    >>> shapes = [(8, 3), 8, 8, 8, (24, 8), 24, (8, 8), 8, 8, 8, (32, 8), 32, (8, 32), 8, 8, 8, (6, 8), 6]
    >>> weights = pack_transformer([0.1 * torch.ones(shape) for shape in shapes])
    >>> lead, none = Lead(torch.zeros(2, 1, 8), torch.zeros(2, 0)), torch.zeros(0, 0)
    >>> causal_decode(torch.randn(2, 5, 3), lead, none, torch.zeros(2, 0, 0), weights, sizes)[0].shape
    torch.Size([2, 5, 3])
    """
    codes = {**BOUNDS, "additive": ADDITIVE, "softplus": SOFTPLUS}
    if bound not in codes:
        raise ValueError(f"bound: expected one of {', '.join(codes)}; got {bound!r}")
    if rule not in GUIDANCE_RULES:
        raise ValueError(f"rule: expected one of {', '.join(GUIDANCE_RULES)}; got {rule!r}")
    guidance = 0 if weak is None else 1 + [*GUIDANCE_RULES].index(rule)
    weak_lead = lead if weak is None else weak
    guides = z.new_empty(0) if guides is None else guides
    guides, places, weights = (t.contiguous() for t in (guides, places, weights))
    return _op((
        z, *lead, *weak_lead, guides, places, rotation, weights, list(sizes[:5]), sizes.norm, sizes.gated,
        sizes.qk_norm, codes[bound], float(limit), guidance, float(temperature),
    ))  # fmt: skip
