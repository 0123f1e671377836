"""One step of tokens in continuous time: who jumps, and to which symbol, from logits, without a tensor of chances."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .modes import capturing, transformed
from .random_numbers import check_keys, philox
from .symbols import check_range, check_symbols

__all__ = ["jump_step"]

_KIND = 256  # kJump of csrc/math/philox.h
_CHUNK, _LANES = 1024, 16  # symbols are counted up chunk by chunk, and within one lane by lane


def _law(scores: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Masses (..., K) of the symbols, the largest 1, those that are cut off 0."""
    if temperature == 0:
        first = scores.argmax(-1, keepdim=True)
        return torch.zeros_like(scores).scatter(-1, first, 1.0)
    masses = ((scores - scores.amax(-1, keepdim=True)) / temperature).exp()
    if 0 < top_k < scores.shape[-1]:
        masses = torch.where(masses >= masses.topk(top_k).values[..., -1:], masses, 0.0)
    if top_p < 1:
        ordered = masses.sort(descending=True).values
        sums = ordered.double().cumsum(-1)
        enough = (sums < top_p * sums[..., -1:]).sum(-1, keepdim=True)
        masses = torch.where(masses >= ordered.gather(-1, enough.clamp(max=scores.shape[-1] - 1)), masses, 0.0)
    return masses


def _formula(
    logits: Tensor, x: Tensor, keys: Tensor, jump: Tensor, renoise: Tensor, own: Tensor, step: int, mask: int,
    rates: bool, temperature: float, top_k: int, top_p: float,
) -> tuple[Tensor]:  # fmt: skip
    """The op in plain torch."""
    size = logits.shape[-1]
    if not x.numel():
        return (x.clone(),)
    places = torch.arange(x.shape[1], device=x.device)
    gate, high, low, other = philox(keys[:, None], places, torch.full_like(places, step), _KIND)
    gate = (gate.double() + 0.5) * 2.0**-32
    symbols = torch.arange(size, device=x.device)
    here = x[..., None] == symbols
    scores = logits.to(state_dtype(logits)) + torch.where(here, own.to(state_dtype(logits))[..., None], 0.0)
    scores = scores.masked_fill(symbols == mask, -math.inf)
    lawless = ~scores.amax(-1).isfinite()
    masses = _law(scores, temperature, top_k, top_p).double()
    chance, due = jump.double(), gate < jump.double()
    if rates:
        due = gate < -torch.expm1(-chance)
        others = masses.masked_fill(here, 0.0)
        share = others.sum(-1) / masses.sum(-1)
        chance = torch.where(share > 0, -torch.expm1(-chance * share), 0.0)
        masses = others
    order = (symbols // _CHUNK * _LANES + symbols % _LANES).argsort(stable=True)
    sums = masses[..., order].cumsum(-1)
    target = ((high << 20 | low >> 12).double() + 0.5) * 2.0**-52 * sums[..., -1]
    drawn = order[(sums <= target[..., None]).sum(-1).clamp(max=size - 1)]
    drawn = torch.where(lawless, -1, torch.where(gate < chance, drawn, x))
    if mask < 0:
        noise, noisy = (other * size) >> 32, gate < renoise.double() + (0 if rates else jump.double())
    else:
        noise, noisy = torch.full_like(x, mask), (gate < renoise.double()) & (x != mask)
        due = due & (x == mask)
    return (torch.where(due, drawn, torch.where(noisy, noise, x)),)


def _check(
    logits: Tensor, x: Tensor, keys: Tensor, jump: Tensor, renoise: Tensor, own: Tensor, step: int, mask: int,
    rates: bool, temperature: float, top_k: int, top_p: float,
) -> None:  # fmt: skip
    """What `csrc/bind/jump_step.cpp` checks, for the paths that do not go through it."""
    if logits.dtype not in FLOATING:
        raise TypeError(f"jump_step: logits must be float32, float64, bfloat16 or float16; got {logits.dtype}")
    if logits.ndim != 3 or logits.shape[:2] != x.shape:
        raise ValueError(
            f"jump_step: expected logits (B, N, K) and x (B, N); got {tuple(logits.shape)} and {tuple(x.shape)}"
        )
    if x.dtype != torch.int64:
        raise TypeError(f"jump_step: x must be int64; got {x.dtype}")
    check_keys("jump_step", keys, x.shape[0])
    for what, t in (("jump", jump), ("renoise", renoise), ("own", own)):
        if t.dtype != state_dtype(logits):
            raise TypeError(f"jump_step: {what} must be {state_dtype(logits)}; got {t.dtype}")
        if t.shape not in (x.shape, (x.shape[0], 1)):
            raise ValueError(f"jump_step: {what} must be {tuple(x.shape)} or {(x.shape[0], 1)}; got {tuple(t.shape)}")
    if x.numel() and logits.shape[2] == 0:
        raise ValueError("jump_step: there is no symbol")
    if not 0 <= step < 1 << 32:
        raise ValueError(f"jump_step: step must be 0 to 2^32 - 1; got {step}")
    if not 0 <= temperature < math.inf or not 0 <= top_p <= 1 or top_k < 0:
        raise ValueError(
            "jump_step: expected a finite temperature and a top_k of at least 0, and a top_p of 0 to 1; got "
            f"{temperature}, {top_k} and {top_p}"
        )
    check_symbols("jump_step", "x", x, logits.shape[2], mask)
    for what, t, (least, most) in zip(("jump", "renoise", "own"), (jump, renoise, own), _ranges(rates)):
        check_range("jump_step", what, t, least, most)
    if mask < 0 and not rates:
        check_range("jump_step", "jump + renoise", jump + renoise, 0.0, 1.0)


def _ranges(rates: bool) -> tuple[tuple[float, float], ...]:
    """Of jump, renoise and own."""
    return (0.0, math.inf if rates else 1.0), (0.0, 1.0), (-math.inf, math.inf)


_op = FusedOp(
    "jump_step",
    "(Tensor logits, Tensor x, Tensor keys, Tensor jump, Tensor renoise, Tensor own, int step, int mask, bool rates, "
    "float temperature, int top_k, float top_p) -> Tensor",
    formula=_formula,
    check=_check,
    fake=lambda logits, x, *_: (torch.empty_like(x),),
    indices=("x", "keys"),
    expand_below=0,
)


def jump_step(
    logits: Tensor, x: Tensor, keys: Tensor, jump: float | Tensor, *, step: int = 0, renoise: float | Tensor = 0.0,
    own: float | Tensor = 0.0, mask: int | None = None, rates: bool = False, temperature: float = 1.0, top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:  # fmt: skip
    r"""Let every token jump by chance, to a symbol that is drawn from the softmax of its logits.

    The law of the new symbol is

    .. math:: p(a) \propto \exp \big((\ell_a + 1[a = x] \, \mathrm{own}) / \mathrm{temperature}\big)

    cut to its top_k most likely symbols and then to the fewest of these that hold a share of top_p, symbols as likely
    as the last one kept; the mask symbol is never drawn. A token that does not jump is not looked at. In

    - a uniform source (mask=None) a token is drawn with chance jump, becomes any of the K symbols with chance renoise,
      and stays else. On the path whose share of data goes from :math:`\kappa` to :math:`\kappa'`, jump
      :math:`\alpha = (\kappa' - \kappa) / (1 - \kappa)` is the exact step of the mixture; jump :math:`\psi \alpha +
      (1 - \psi) \kappa'` with renoise :math:`(1 - \psi) (1 - \kappa')` keeps the same marginals;
      jump :math:`\kappa`, renoise :math:`1 - \kappa`, own :math:`-\log(1 + K \kappa / (1 - \kappa))` draws a token
      given all others;
    - a masked source a token that is the mask is drawn with chance jump, any other becomes the mask with chance
      renoise: with the numbers above, those of remasking;
    - rates, jump is a rate times the length of the step: the token stays with chance :math:`\exp(-\mathrm{jump} \,
      (1 - p(x)))`, else it is drawn from p without x.

    Args:
        logits: (B, \*event, K), float32, float64, bfloat16 or float16.
        x: (B, \*event), int64, symbols 0 to K - 1 or the mask.
        keys: (B,), int64, from `draw_keys` of `pyflowk.ops.draw`; a token's numbers depend on its row's key, its place
            and the step alone.
        jump, renoise, own: a number, (B,) or like x; 0 for all three keeps a token. Chances are 0 to 1, as
            is jump + renoise in a uniform source; rates at least 0, own anything.
        step: which of several draws under the same keys.
        mask: the mask symbol, which may be K or more.
        temperature: 0 takes the most likely symbol, of equal ones the first.
        top_k: 0 cuts nothing off.

    Returns:
        The new tokens, like x. They have no gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes or numbers that do not fit; logits of a token that jumps without a law
            (NaN, infinite, or none left), with its place: on a card such a token becomes -1. On the CPU a token out of
            range, a tensor of chances with other numbers, such as NaN, and jump + renoise above 1; on a card renoise
            is cut to what jump leaves.

    Cost: one pass over the logits of those that jump, an exponential each; with top_k or top_p some passes more over
    these, without a sort.
    Sources: Gat et al. 2024 (arXiv:2407.15595); Wang et al. 2025 (arXiv:2503.00307); Salmon, Moraes, Dror, Shaw 2011.

    >>> keys, x = torch.tensor([7]), torch.tensor([[3, 1, 3]])
    >>> jump_step(torch.tensor([0.0, 50.0, 0.0]).expand(1, 3, 3), x, keys, 1.0, mask=3)
    tensor([[1, 1, 1]])
    >>> jump_step(torch.zeros(1, 3, 3), x, keys, 0.0, mask=3, renoise=1.0)
    tensor([[3, 3, 3]])
    """
    if logits.shape[:-1] != x.shape or x.ndim < 1:
        raise ValueError(
            f"jump_step: expected logits (B, *event, K) and x (B, *event); got {tuple(logits.shape)} and "
            f"{tuple(x.shape)}"
        )
    if mask is not None and mask < 0:
        raise ValueError(f"jump_step: mask must be a symbol of at least 0; got {mask}")
    if rates and not (isinstance(renoise, (int, float)) and renoise == 0):
        raise ValueError("jump_step: with rates, renoise must be 0")
    given = zip(("jump", "renoise", "own"), (jump, renoise, own), _ranges(rates))
    numbers = [_beside(x, state_dtype(logits), *each) for each in given]
    code = -1 if mask is None else mask
    flat = logits.detach() if logits.requires_grad else logits
    rows, places = x.shape[0], math.prod(x.shape[1:])
    tokens = x
    if x.ndim != 2:
        flat, tokens = flat.reshape(rows, places, logits.shape[-1]), x.reshape(rows, places)
    settings = (step, code, rates, float(temperature), top_k, float(top_p))
    args: tuple[Any, ...] = (flat, tokens.contiguous(), keys.contiguous(), *numbers, *settings)
    (moved,) = _op(args)
    if not transformed() and moved.numel() and not capturing(moved) and int(moved.min()) < 0:
        row, place = (moved < 0).nonzero()[0].tolist()
        raise ValueError(
            f"jump_step: the logits of row {row}, token {place} are not finite, or leave nothing to draw; got "
            f"{flat[row, place]}"
        )
    return moved.reshape(x.shape)


def _beside(x: Tensor, dtype: torch.dtype, what: str, value: float | Tensor, limits: tuple[float, float]) -> Tensor:
    """A number, one a row or one a token, as (B, 1) or (B, N)."""
    if not isinstance(value, Tensor):
        check_range("jump_step", what, value, *limits)
        return x.new_full((x.shape[0], 1), value, dtype=dtype)
    if value.shape not in ((), x.shape[:1], x.shape):
        raise ValueError(f"jump_step: {what} must be a number, ({x.shape[0]},) or like x; got {tuple(value.shape)}")
    value = value.detach().to(x.device, dtype)
    if value.shape == x.shape:
        return value.reshape(x.shape[0], math.prod(x.shape[1:]))
    return value.expand(x.shape[0])[:, None]
