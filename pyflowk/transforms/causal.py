"""Causal maps of tokens: each one is moved as a whole, with parameters made from those before it."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..nets import CausalTransformer
from ..nets.causal import Away, CausalNetwork, CausalWalk
from ..nets.context import uncompiled
from ..ops.dtypes import state_dtype
from ..ops.guidance import GUIDANCE_RULES, guide
from ..ops.modes import autocasting, forward_or_functional
from .base import Transform, zero_ladj
from .decoding import GUESSES, Decoding, Solved, solve
from .maps import Affine, Map, require_map


class Causal(Transform):
    r"""Every token moved by the ones before: :math:`x_i = f(z_i; \mathrm{net}(x_{<i}))`, z_i the noise of token i.

    Args:
        net: a :class:`pyflowk.nets.CausalNetwork`, such as a :class:`pyflowk.nets.CausalTransformer`, with
            ``map.params_per_element`` parameters an element; tokens that it has none for stay as they are.
        map: what f is. ``Affine("none", interleaved=True)`` by default, :math:`x_i = z_i e^{\alpha_i} + \mu_i`: every
            token is Gaussian, given those before it. :class:`Additive` preserves the volume.
        flip: noise in the opposite order, so that the next map of a stack looks back the other way.
        decoding: how ``inverse`` finds the tokens.

    x is (B, T, D); ladj (B,). ``forward`` (density) is one pass of the network over all tokens. ``inverse`` (sampling)
    takes T steps, of a token each: by ``net.walk``, which keeps what it can of the earlier ones; or, where no
    derivatives are asked for, fewer steps of many tokens (:class:`Decoding`), of which ``solve`` reports. Networks may
    run in 16 bits, by autocast; the map does not. There is no way back from the output but those steps, so
    :class:`MemoryFlat` keeps the tokens in front of each map, and nothing of its network.

    Raises TypeError for what is no CausalNetwork and no Map; ValueError for one with another number of parameters than
    the map's, a map that wants them in another order, x that is not (B, T, D), and parameters of another shape.
    Zhai et al., 2024, arXiv:2412.06329; additive: section 3.4 there; the masked, elementwise form: Papamakarios,
    Pavlakou, Murray, 2017, arXiv:1705.07057.

    >>> import torch
    >>> from pyflowk.nets import CausalTransformer
    >>> from pyflowk.transforms import Causal
    >>> causal = Causal(CausalTransformer(2, tokens=5, width=16, depth=1), flip=True)
    >>> x = torch.randn(3, 5, 2)
    >>> torch.allclose(causal.inverse(causal(x)[0])[0], x, atol=1e-5), causal(x)[1].shape
    (True, torch.Size([3]))
    """

    def __init__(
        self, net: CausalNetwork, map: Map | None = None, flip: bool = False, decoding: Decoding | None = None
    ) -> None:
        super().__init__()
        if not isinstance(uncompiled(net), CausalNetwork):
            raise TypeError(f"Causal expects a CausalNetwork, got {type(net).__name__}")
        self.net = net
        self.map = Affine("none", interleaved=True) if map is None else require_map("Causal", map)
        if net.params_per_element != self.map.params_per_element:
            raise ValueError(
                f"Causal expects a network of {self.map.params_per_element} parameters an element for this map, got "
                f"one of {net.params_per_element}"
            )
        if self.map.params_per_element > 1 and not self.map.interleaved:
            raise ValueError("Causal expects a map with the parameters of each element side by side: interleaved=True")
        self.flip, self.decoding = flip, decoding or Decoding()

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        params = self.net(x, self._wanted(context))
        moved, k = x.shape[1] - params.shape[1], self.map.params_per_element
        if moved not in (0, 1) or params.shape != (x.shape[0], x.shape[1] - moved, k * x.shape[2]):
            wanted = f"({len(x)}, {x.shape[1]} or {x.shape[1] - 1}, {k * x.shape[2]})"
            raise ValueError(f"Causal expects parameters {wanted} for x {tuple(x.shape)}, got {tuple(params.shape)}")
        z, ladj = self._mapped(x[:, moved:], params, inverse=True)
        z = torch.cat((x[:, :moved], z), 1) if moved else z
        return z.flip(1) if self.flip else z, ladj

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        context, noise = self._wanted(context), z.flip(1) if self.flip else z
        plain = not (self._differentiated(noise) or torch.compiler.is_compiling())  # rounds are counted, not traced
        one_call = plain and self.decoding.method in ("auto", "sequential")
        if one_call and (decoded := self._decoded(noise, context)) is not None:
            return decoded
        if plain and self.decoding.method != "sequential":
            return self._solved(noise, context)[:2]
        walk: CausalWalk = self.net.walk(z, context)
        params, total = walk.first(), zero_ladj(z)
        found: list[Tensor] = []
        for i, token in enumerate(noise.split(1, 1)):
            if i:
                params = walk.after(found[-1])
            if params is not None:
                token, ladj = self._mapped(token, params, inverse=False)
                total = total + ladj
            found.append(token)
        return torch.cat(found, 1), total

    @torch.no_grad()
    def solve(self, z: Tensor, context: Tensor | None = None) -> Solved:
        """What ``inverse`` gives, without derivatives, and how many rounds it took, by the method of ``decoding``;
        "auto" is "gauss-seidel" here."""
        self._check(z)
        return self._solved(z.flip(1) if self.flip else z, self._wanted(context))

    @torch.no_grad()
    def guess_errors(self, z: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """How far one round from each guess of :class:`Decoding` is from the tokens that noise z becomes, the length of
        the mean difference: the less, the better the guess. Cost: the inverse, and a pass of the network for each.
        Liu, Qin, 2025, arXiv:2505.12849, the initial-guess metric."""
        noise, context = z.flip(1) if self.flip else z, self._wanted(context)
        right, _ = self.inverse(z, context)
        errors = {}
        for name, guess in zip(GUESSES, (noise, torch.zeros_like(noise)), strict=True):
            params = self.net(guess, context)
            moved = noise.shape[1] - params.shape[1]
            found, _ = self._mapped(noise[:, moved:], params, inverse=False)
            errors[name] = float(torch.linalg.vector_norm((found - right[:, moved:]).mean(0)))
        return errors

    @torch.no_grad()
    def convergence_rank(self, x: Tensor, context: Tensor | None = None) -> float:
        r"""How slowly rounds are to be expected to agree on tokens like x (B, T, D), beside other maps of a stack:
        :math:`\lVert \mathrm{mean}_B(x e^{-\alpha}) \rVert \lVert W_\alpha \rVert + \lVert W_\mu \rVert`, of the rows
        of the network's last layer that make log-scales and means, by their largest singular values. Maps of a high
        rank are found token after token or in small segments, all others at once. Raises TypeError for another network
        than a :class:`CausalTransformer` and another map than an affine one. Cost: a pass of the network.
        Liu, Qin, 2025, arXiv:2505.12849, the convergence-ranking metric."""
        if not isinstance(self.map, Affine) or not isinstance(self.net, CausalTransformer):
            raise TypeError("convergence_rank expects a CausalTransformer and an Affine map")
        params = self.net(x, self._wanted(context))
        scaled = x[:, x.shape[1] - params.shape[1] :] * torch.exp(-self.map.gaussian(params)[0])
        rows = self.net.last.weight.unflatten(0, (-1, 2))
        scale, mean = (torch.linalg.matrix_norm(rows[:, i].to(state_dtype(rows)), 2) for i in range(2))
        return float(torch.linalg.matrix_norm(scaled.mean(0), 2) * scale + mean)

    def decoded(self, decoding: Decoding) -> Causal:
        """The map of the same network whose tokens are found so."""
        return Causal(self.net, self.map, self.flip, decoding)

    def guided(self, weight: float, rule: str = "log_scale", rising: bool = False, temperature: float = 1.0) -> Causal:
        r"""The map whose every token goes further than its context: a map of the same network, for sampling.

        It moves by what :func:`pyflowk.ops.guide` makes of the Gaussians with the context and without, or of a network
        without one and itself with its attention's logits divided by a ``temperature``, which blurs what it has seen.
        ``rising``: the weight of token i of 0..T-1 is :math:`w\, i / (T - 1)`. Its log-determinant is that of the
        guided map, its density no longer that of the data. Weight 0 is the map itself. Raises ValueError for another
        map than an affine one, a rule that there is not, and a network that cannot do without its context. Cost: the
        network twice.

        Zhai et al., 2024, arXiv:2412.06329, section 2.5.

        >>> import torch
        >>> from pyflowk.nets import CausalTransformer
        >>> from pyflowk.transforms import Causal
        >>> net = CausalTransformer(2, tokens=3, width=16, depth=1, classes=10, droppable=True)
        >>> Causal(net).guided(2.0).inverse(torch.randn(4, 3, 2), torch.tensor([7]))[0].shape
        torch.Size([4, 3, 2])
        """
        if not math.isfinite(weight):
            raise ValueError(f"weight: expected a finite number, got {weight}")
        if rule not in GUIDANCE_RULES:
            raise ValueError(f"rule: expected one of {', '.join(GUIDANCE_RULES)}; got {rule!r}")
        if not isinstance(self.map, Affine):
            raise ValueError(f"guidance expects an Affine map, whose tokens are Gaussian, got {self.map}")
        if not weight:
            return self
        if self.net.may_go_without:
            self.net.no_context()  # an error, if there is none
        elif temperature == 1:
            raise ValueError("guidance expects a context, or another temperature than 1 to be guided away from")
        net = _Guided(self.net, self.map, weight, rule, rising, temperature)
        return Causal(net, flip=self.flip, decoding=self.decoding)

    def _mapped(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Tokens (B, n, D) moved, and the log-determinant, of density (inverse) or sampling."""
        y, ladj = self.map(x.flatten(1), params.flatten(1), mask="all", swap=False, inverse=inverse)
        return y.reshape(x.shape), ladj

    def _decoded(self, noise: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """All tokens in one call of the network, where nobody asks for another precision."""
        options = self.map.decode_options or {}
        return None if "bound" not in options or autocasting(noise) else self.net.decode(noise, context, **options)

    def _solved(self, noise: Tensor, context: Tensor | None) -> Solved:
        return solve(self.net.walk(noise, context), partial(self._mapped, inverse=False), noise, self.decoding)

    def _differentiated(self, noise: Tensor) -> bool:
        """Whether anybody asks for derivatives, which rounds that end when nothing changes do not have."""
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (noise, *self.parameters()))
        return recorded or forward_or_functional()

    def _wanted(self, context: Tensor | None) -> Tensor | None:
        return context if self.net.takes_context else None

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or not x.shape[1]:
            raise ValueError(f"Causal expects tokens (B, T, D), got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"flip={self.flip}, decoding={self.decoding.method!r}"


class _Guided(CausalNetwork):
    """A network that guides itself, away from what it says without its context, or blurred; for an unbounded map."""

    def __init__(
        self, net: CausalNetwork, map: Affine, weight: float, rule: str, rising: bool, temperature: float
    ) -> None:
        super().__init__()
        self.net, self.map, self.weight, self.rule, self.rising = net, map, weight, rule, rising
        self.blurred = {} if temperature == 1 else {"temperature": temperature}
        self.takes_context = net.takes_context

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        strong, weak = self.net(x, context), self.net(x, self.net.without(context), **self.blurred)
        return self.guided(strong, weak, x.shape[1] - strong.shape[1], x.shape[1])

    def walk(self, like: Tensor, context: Tensor | None = None, **options: float) -> CausalWalk:
        return _GuidedWalk(self, like, context)

    def decode(
        self, z: Tensor, context: Tensor | None = None, *, bound: str, limit: float = 1.0, away: Away | None = None
    ) -> tuple[Tensor, Tensor] | None:
        away = Away(self.weights(z.shape[1], z), self.rule, self.blurred.get("temperature", 1.0))
        return self.net.decode(z, context, **(self.map.decode_options or {}), away=away)

    def weights(self, tokens: int, like: Tensor) -> Tensor:
        """How far each token goes, (T,)."""
        places = torch.arange(tokens, device=like.device, dtype=state_dtype(like))
        return self.weight * (places / max(tokens - 1, 1) if self.rising else torch.ones_like(places))

    def guided(self, strong: Tensor, weak: Tensor, first: int, tokens: int) -> Tensor:
        """Parameters (B, n, 2 D) of the tokens from ``first`` on."""
        w = self.weights(tokens, strong)[first : first + strong.shape[1], None]
        log_scale, mean = guide(self.map.gaussian(strong), self.map.gaussian(weak), w, self.rule)
        return torch.stack((log_scale, mean), -1).flatten(-2)


class _GuidedWalk:
    """Both walks, side by side."""

    def __init__(self, net: _Guided, like: Tensor, context: Tensor | None) -> None:
        self.net, self.tokens, self.known = net, like.shape[1], 0
        self.strong = net.net.walk(like, context)
        self.weak = net.net.walk(like, net.net.without(context), **net.blurred)

    def first(self) -> Tensor | None:
        strong, weak = self.strong.first(), self.weak.first()
        return None if strong is None or weak is None else self.net.guided(strong, weak, 0, self.tokens)

    def after(self, tokens: Tensor) -> Tensor:
        self.known += tokens.shape[1]
        strong, weak = self.strong.after(tokens), self.weak.after(tokens)
        return self.net.guided(strong, weak, self.known - tokens.shape[1] + 1, self.tokens)

    def back(self, tokens: int) -> None:
        self.known -= tokens
        self.strong.back(tokens)
        self.weak.back(tokens)
