"""The causal transformer: parameters of each token made from those before it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.causal_decode import Lead, TransformerSizes, causal_decode, pack_transformer
from ..ops.dtypes import state_dtype
from ..ops.kept import Keeper, Kept
from ..shapes import expand_context
from .attention import Past, SelfAttention, heads_of, zero_
from .causal import Away, CausalNetwork, check_step
from .context import context_vector, make_context
from .dit import rotary
from .dual import Dual
from .embedding import TimeEmbedding
from .text import ContextTokens

__all__ = ["PLACES", "CausalLayer", "CausalTransformer", "with_level"]

PLACES = ("learned", "rotary", "both")
NORMS = ("layer", "rms")
"""In the order of ``TransformerSizes.norm``."""


class CausalTransformer(Keeper, CausalNetwork):
    r"""A transformer whose output for token i is a function of tokens 0..i-1: what moves a token of a causal flow.

    (B, T, D) -> (B, P, k D). The tokens go in by a linear layer, through ``depth`` layers
    :math:`h \leftarrow h + \mathrm{Attention}(\mathrm{N}(h)),\ h \leftarrow h + \mathrm{MLP}(\mathrm{N}(h))`, no token
    seeing those behind it, and out by a norm and a linear layer that is zero at the start: a flow starts as the
    identity. What stands in front of them speaks for the first one: ``prefix`` tokens, made from the context, a learned
    ``start``, or both, and then P = T; with neither the first token has no parameters, P = T - 1.

    Args:
        features, tokens: D and T; T is at least 2 where nothing stands in front.
        params_per_element: k.
        width, depth, heads: of the transformer; heads of about 64 channels if not given.
        kv_heads: so many heads of keys and values, shared by groups of the queries'.
        norm: "layer" (means and variances) or "rms" (mean squares).
        gated: a perceptron :math:`W_3 (\mathrm{SiLU}(W_1 h) \circ W_2 h)` of 8/3 ``width`` units (SwiGLU, Shazeer,
            2020, arXiv:2002.05202) in place of one of 4 ``width`` (GELU, by tanh).
        positions: "learned" vectors that are added to the tokens, "rotary" turns of queries and keys as in
            :class:`DiT`, or "both".
        grid: (rows, columns) of the tokens of an image; (T, 1) if not given. For turns.
        turns: angles for rotary positions, ``turns(x)``, (places, width / heads / 2) for all that the network sees, in
            place of those of DiT, which leave what stands in front as it is.
        qk_norm: queries and keys get a length of their own.
        context_dim, classes, droppable: as in :class:`DiT`. The context is added to every token, if it is no prefix.
        text: the context is ``prefix`` tokens, labels or numbers each, as :class:`ContextTokens` takes them.
        noise_level: every token hears how noisy the events are, too, by a :class:`TimeEmbedding` of the level's
            logarithm: contexts are what :func:`with_level` makes of levels and of what else there is.
        approximate: of the perceptron's GELU, as in torch, "tanh" or "none".
        last_norm: in front of the last layer, "layer" or "rms", or "none"; that of ``norm`` if not given.

    ``walk`` keeps the keys and values of earlier tokens, and on a CPU ``decode`` takes all steps in one call, unless
    ``approximate`` or ``last_norm`` are of another kind, as those of published weights are. Raises ValueError for sizes
    that do not fit and names that are unknown, and for a context that is missing or not wanted. Cost: 12 depth width^2
    multiplications a token, and depth width T for T tokens; a walk costs the same in T steps.

    Zhai et al., 2024, arXiv:2412.06329 (pre-norm, learned positions); Gu et al., 2025, arXiv:2506.06276 (the start, the
    prefix, rotary positions).

    >>> import torch
    >>> from pyflowk.nets import CausalTransformer
    >>> CausalTransformer(3, tokens=4, width=16, depth=1)(torch.ones(2, 4, 3)).shape
    torch.Size([2, 3, 6])
    """

    def __init__(
        self,
        features: int,
        tokens: int,
        params_per_element: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int | None = None,
        *,
        kv_heads: int | None = None,
        norm: str = "layer",
        gated: bool = False,
        positions: str = "learned",
        grid: tuple[int, int] | None = None,
        turns: Callable[[Tensor], Tensor] | None = None,
        qk_norm: bool = False,
        start: bool = False,
        prefix: int = 0,
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
        text: bool = False,
        noise_level: bool = False,
        approximate: str = "tanh",
        last_norm: str | None = None,
    ) -> None:
        super().__init__()
        counts = {"features": features, "tokens": tokens, "params_per_element": params_per_element}
        require_counts("CausalTransformer", **counts, width=width, depth=depth)
        self.heads = heads_of(width) if heads is None else heads
        require_counts("CausalTransformer", heads=self.heads, kv_heads=self.heads if kv_heads is None else kv_heads)
        require_counts("CausalTransformer", 0, prefix=prefix)
        last_norm = norm if last_norm is None else last_norm
        for name, value, known in (("norm", norm, NORMS), ("last_norm", last_norm, (*NORMS, "none"))):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        if approximate not in ("tanh", "none"):
            raise ValueError(f"approximate: expected tanh or none, got {approximate!r}")
        if positions not in PLACES:
            raise ValueError(f"positions: expected one of {', '.join(PLACES)}; got {positions!r}")
        self.grid = (tokens, 1) if grid is None else grid
        if self.grid[0] * self.grid[1] != tokens:
            raise ValueError(f"grid: expected rows and columns of {tokens} tokens, got {grid}")
        if positions != "learned" and (width // self.heads) % 4:
            raise ValueError(
                f"positions: {positions} expects heads of a multiple of 4 channels, got {width=} and {heads=}"
            )
        if prefix and context_dim is None and classes is None:
            raise ValueError("prefix: expected a context to make it from, got none")
        if text and (noise_level or not prefix):
            raise ValueError("text: expected a prefix of as many tokens, and no noise_level beside it")
        self.front = prefix + start
        if self.front + tokens < 2:
            raise ValueError("tokens: expected at least 2 where nothing stands in front of them, got 1")
        self.features, self.tokens, self.params_per_element = features, tokens, params_per_element
        self.width, self.positions, self.prefix, self.turns = width, positions, prefix, turns
        self.context = (
            ContextTokens(width, prefix, context_dim, classes, droppable)
            if text
            else make_context(width * max(prefix, 1), context_dim, classes, droppable)
        )
        self.level = TimeEmbedding(width, scale=10.0) if noise_level else None
        self.takes_context = self.context is not None or noise_level
        self.first = nn.Linear(features, width)
        self.start = nn.Parameter(0.01 * torch.randn(width)) if start else None
        seen = self.front + tokens - 1  # the last token is before none
        self.places = nn.Parameter(0.5 * torch.randn(seen, width)) if positions != "rotary" else None
        hidden = (8 * width // 3 + 7) // 8 * 8 if gated else 4 * width
        shared = self.heads if kv_heads is None else kv_heads
        self.sizes = TransformerSizes(width, self.heads, shared, hidden, depth, int(norm == "rms"), gated, qk_norm)
        self.layers = nn.ModuleList(CausalLayer(self.sizes, approximate) for _ in range(depth))
        self.norm = nn.Identity() if last_norm == "none" else _norm(last_norm, width)
        self.packs = approximate == "tanh" and last_norm == norm
        self.last = zero_(nn.Linear(width, params_per_element * features))
        self._kept = Kept()

    def forward(self, x: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        self._check(x, temperature)
        lead = self._lead(x, context)
        h = torch.cat((lead.ahead, self._entered(x[:, :-1], lead)), 1)
        return self._through(h, 0, self._rotation(x), None, temperature)[:, max(self.front - 1, 0) :]

    def walk(self, like: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Cached:  # type: ignore[override]
        self._check(like, temperature)
        return Cached(self, like, context, temperature)

    def decode(
        self, z: Tensor, context: Tensor | None = None, *, bound: str, limit: float = 1.0, away: Away | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """By :func:`pyflowk.ops.causal_decode`, for which the weights are packed once."""
        self._check(z)
        if not self.packs or not z.is_cpu or z.dtype != self.first.weight.dtype or z.dtype != state_dtype(z):
            return None
        rotation, none = self._rotation(z), z.new_empty(0, 0)
        return causal_decode(
            z, self._lead(z, context), none if self.places is None else self.places,
            z.new_empty(2, 0, 0) if rotation is None else torch.stack(rotation), self._packed_weights(),
            self.sizes, bound=bound, limit=limit, weak=None if away is None else self._lead(z, self.without(context)),
            guides=None if away is None else away.weights.to(z.dtype),
            rule="log_scale" if away is None else away.rule, temperature=1.0 if away is None else away.temperature,
        )  # fmt: skip

    @property
    def may_go_without(self) -> bool:
        return self.context is not None

    def without(self, context: Tensor | None) -> Tensor | None:
        """The level of noise alone, where there is one."""
        if self.level is None or context is None:
            return None
        return context if self.context is None else with_level(context[:, 0], self.context.no_context())

    def keep(self) -> None:
        if self.packs:
            self._packed_weights()

    def _packed_weights(self) -> Tensor:
        layers: Any = self.layers
        parts = [self.first, *chain.from_iterable(layer.in_order() for layer in layers), self.norm, self.last]
        tensors = [t for part in parts for t in _tensors(part)]
        return self._kept.get(tensors, lambda: pack_transformer(tensors))

    def _lead(self, z: Tensor, context: Tensor | None) -> Lead:
        """What stands in front of the tokens of z, and what the context adds to them."""
        rows, heard = z.shape[0], None
        if self.level is not None:
            level, context = self._split(context, rows)
            heard = self.level(level.log())
        vector = context_vector(self.context, context, rows)
        ahead = self.first.weight.new_empty(rows, 0, self.width)
        if self.prefix:
            assert vector is not None
            ahead = vector.reshape(rows, self.prefix, self.width)
        if self.start is not None:
            ahead = torch.cat((ahead, self.start.expand(rows, 1, -1)), 1)
        shifts = [part for part in (None if self.prefix else vector, heard) if part is not None]
        shift = sum(shifts[1:], shifts[0]) if shifts else z.new_empty(rows, 0)
        added = shift if not self.prefix else heard
        return Lead(ahead if added is None or not added.shape[1] else ahead + added.unsqueeze(1), shift)

    def _split(self, context: Tensor | None, rows: int) -> tuple[Tensor, Tensor | None]:
        """Levels of noise (B,), and the rest of a context."""
        if context is None:
            raise ValueError("this network hears the level of noise: expected a context of with_level, got none")
        context = expand_context(context, rows)
        assert context is not None
        if context.dim() != 2 or not context.is_floating_point():
            raise ValueError(f"expected a context of with_level, (B, 1 or more) floats, got {tuple(context.shape)}")
        level, rest = context[:, 0], context[:, 1:]
        if self.context is None:
            return level, rest if rest.shape[1] else None
        return level, rest[:, 0].round().long() if self.context.classes is not None and rest.shape[1] == 1 else rest

    def _entered(self, x: Tensor, lead: Lead) -> Tensor:
        """Tokens (B, n, features) in the width of the network."""
        h = self.first(x)
        return h + lead.shift.unsqueeze(1) if lead.shift.shape[1] else h

    def _rotation(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The turns at all places; what stands in front is not turned."""
        if self.positions == "learned":
            return None
        if self.turns is not None:
            angles = self.turns(x)
            return angles.cos(), angles.sin()
        cos, sin = (table[: self.tokens - 1] for table in rotary(*self.grid, self.width // self.heads, x))
        return F.pad(cos, (0, 0, self.front, 0), value=1.0), F.pad(sin, (0, 0, self.front, 0))

    def _through(
        self, h: Tensor, place: int, rotation: tuple[Tensor, Tensor] | None, past: list[Past] | None, temperature: float
    ) -> Tensor:
        """The parameters that tokens (B, n, width) at places from ``place`` on lead to, (B, n, k D)."""
        here = slice(place, place + h.shape[1])
        h = h.to(state_dtype(h))  # autocast makes it 16 bits wide, too few for a sum over all layers
        if self.places is not None:
            h = h + self.places[here]
        turns = None if rotation is None else (rotation[0][here], rotation[1][here])
        for i, layer in enumerate(self.layers):
            h = layer(h, turns, None if past is None else past[i], temperature)
        return self.last(self.norm(h))

    def _check(self, x: Tensor, temperature: float = 1.0) -> None:
        if x.dim() != 3 or x.shape[1:] != (self.tokens, self.features):
            raise ValueError(f"CausalTransformer expects (B, {self.tokens}, {self.features}), got {tuple(x.shape)}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def with_level(level: Tensor, context: Tensor | None = None) -> Tensor:
    """The context of a network that hears levels of noise (B,): these, and what else it hears, in one tensor of floats.

    >>> import torch
    >>> from pyflowk.nets import with_level
    >>> with_level(torch.tensor([0.1, 0.3]), torch.tensor([4, 2]))
    tensor([[0.1000, 4.0000],
            [0.3000, 2.0000]])
    """
    if context is None:
        return level.unsqueeze(1)
    rest = expand_context(context, level.shape[0])
    assert rest is not None
    return torch.cat((level.unsqueeze(1), (rest.unsqueeze(1) if rest.dim() == 1 else rest).to(level.dtype)), 1)


class Cached:
    """A walk that keeps what earlier tokens have said."""

    def __init__(self, net: CausalTransformer, like: Tensor, context: Tensor | None, temperature: float) -> None:
        self.net, self.temperature, self.place = net, temperature, 0
        self.lead = net._lead(like, context)
        self.rotation = net._rotation(like)
        self.past = [Past(net.front + net.tokens - 1) for _ in net.layers]

    def first(self) -> Tensor | None:
        return self._next(self.lead.ahead)[:, -1:] if self.net.front else None

    def after(self, tokens: Tensor) -> Tensor:
        check_step(tokens, self.lead.ahead.shape[0], self.net.features)
        return self._next(self.net._entered(tokens, self.lead))

    def back(self, tokens: int) -> None:
        self.place -= tokens
        for past in self.past:
            past.back(tokens)

    def _next(self, h: Tensor) -> Tensor:
        start, self.place = self.place, self.place + h.shape[1]
        if self.place > (most := self.net.front + self.net.tokens - 1):
            raise ValueError(f"expected {most - self.net.front} tokens, as there is none behind the last; got more")
        return self.net._through(h, start, self.rotation, self.past, self.temperature)


class CausalLayer(nn.Module):
    """Attention and a perceptron, each behind a norm and added to what there is: what a :class:`CausalTransformer` has
    ``depth`` of, and what is wrapped where weights are sharded."""

    def __init__(self, sizes: TransformerSizes, approximate: str) -> None:
        super().__init__()
        width, hidden, self.gated, self.approximate = sizes.width, sizes.hidden, sizes.gated, approximate
        kind = NORMS[sizes.norm]
        self.norm = _norm(kind, width)
        self.attention = SelfAttention(width, sizes.heads, sizes.qk_norm, sizes.kv_heads, causal=True)
        self.second_norm = _norm(kind, width)
        self.first, self.second = nn.Linear(width, (1 + sizes.gated) * hidden), nn.Linear(hidden, width)

    def in_order(self) -> list[nn.Module]:
        """Its parts as :func:`pyflowk.ops.pack_transformer` takes their weights."""
        attention = self.attention
        gains = [norm for norm in (attention.q_norm, attention.k_norm) if norm is not None]
        return [self.norm, attention.qkv, *gains, attention.out, self.second_norm, self.first, self.second]

    def forward(
        self, h: Tensor, rotation: tuple[Tensor, Tensor] | None, past: Past | None, temperature: float
    ) -> Tensor:
        h = h + self.attention(Dual(self.norm(h)), rotation, past, temperature).value
        u = self.first(self.second_norm(h))
        if self.gated:
            gate, u = u.chunk(2, -1)
            u = F.silu(gate) * u
        else:
            u = F.gelu(u, approximate=self.approximate)
        return h + self.second(u)


def _norm(kind: str, width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-6) if kind == "rms" else nn.LayerNorm(width)


def _tensors(part: Any) -> list[Tensor]:
    """Weight and bias: parameters or, of a frozen model, buffers."""
    return [part.weight] if isinstance(part, nn.RMSNorm) else [part.weight, part.bias]
