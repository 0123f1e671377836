"""Random numbers by counter: a row's own key and a place give the same numbers on every device and in any order.

Kernels that draw share `csrc/math/philox.h`, and their formulas what is here: nothing is stored, every pass makes its
numbers again. Keys come from torch's generator, one int64 a row (`draw_keys`).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING

__all__ = ["RANDOM", "check_keys", "philox", "random_formula", "random_numbers"]

#: name -> code of the kind of numbers in `csrc/math/philox.h`.
RANDOM = {"sign": 0, "normal": 1, "uniform": 2}
_MASK = 0xFFFFFFFF
_SIGNS, _PER_COUNTER = 128, 4  # kSigns and kPerCounter of csrc/math/philox.h


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """The high and low word of a 64-bit product, in two halves because int64 has a sign."""
    low = word * (factor & 0xFFFF)
    rest = word * (factor >> 16) + (low >> 16)
    return rest >> 16, ((rest & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(keys: Tensor, blocks: Tensor, draws: Tensor, kind: int) -> tuple[Tensor, ...]:
    """Return the four words of Philox 4x32-10 at every counter, 32 bits each, as int64; the arguments broadcast."""
    k0, k1 = keys & _MASK, (keys >> 32) & _MASK
    a, b, c, d = blocks & _MASK, (blocks >> 32) & _MASK, draws, torch.full_like(draws, kind)
    for _ in range(10):
        (high, low), (other_high, other_low) = _product(0xD2511F53, a), _product(0xCD9E8D57, c)
        a, b, c, d = other_high ^ b ^ k0, other_low, high ^ d ^ k1, low
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return a, b, c, d


def _normals(w: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Box and Muller: a radius, and a quarter of the circle plus an angle within it."""
    radius = torch.sqrt(-2 * torch.log(((w >> 1).to(dtype) + 0.5) * 2.0**-31))
    angle = ((v & 0x3FFFFFFF) - 0x20000000).to(dtype) * (math.pi * 2.0**-31)
    s, c, quarter = torch.sin(angle), torch.cos(angle), v >> 30
    sine = torch.where((quarter & 1) == 1, c, s)
    cosine = torch.where((quarter & 1) == 1, s, c)
    sine = torch.where((quarter & 2) == 2, -sine, sine)
    return radius * torch.where(((quarter + 1) & 2) == 2, -cosine, cosine), radius * sine


def _uniforms(words: Tensor, dtype: torch.dtype) -> Tensor:
    return (words.to(dtype) + 0.5) * 2.0**-32


def random_formula(keys: Tensor, draws: int, size: int, kind: int, wide: bool) -> tuple[Tensor]:
    """The op in plain torch: (B, draws, size), what the kernels make of the same arguments."""
    dtype = torch.float64 if wide else torch.float32
    up_to = partial(torch.arange, device=keys.device)
    each = _SIGNS if kind == RANDOM["sign"] else _PER_COUNTER
    blocks = up_to(-(-size // each))
    words = philox(keys.reshape(-1, 1, 1), blocks, up_to(draws).reshape(-1, 1), kind)
    if kind == RANDOM["sign"]:
        bits = torch.stack(words, -1).unsqueeze(-1) >> up_to(32)
        whole = 2 * (bits & 1).to(dtype) - 1
    elif kind == RANDOM["uniform"]:
        whole = _uniforms(torch.stack(words, -1), dtype)
    else:
        a, b, c, d = words
        whole = torch.stack((*_normals(a, b, dtype), *_normals(c, d, dtype)), -1)
    return (whole.reshape(keys.shape[0], draws, len(blocks) * each)[..., :size],)


def check_keys(op: str, keys: Tensor, rows: int | None = None) -> None:
    """Raise ValueError or TypeError, in the name of `op`, unless keys are int64 and one a row."""
    wanted = "(B,)" if rows is None else f"({rows},), one a row"
    if keys.ndim != 1 or (rows is not None and keys.shape[0] != rows):
        raise ValueError(f"{op}: keys must be {wanted}; got {tuple(keys.shape)}")
    if keys.dtype != torch.int64:
        raise TypeError(f"{op}: keys must be int64; got {keys.dtype}")


def _check(keys: Tensor, draws: int, size: int, kind: int, wide: bool) -> None:
    """What `csrc/bind/random_numbers.cpp` checks, for the paths that do not go through it."""
    check_keys("random_numbers", keys)
    if draws < 0 or size < 0 or kind not in RANDOM.values():
        raise ValueError(
            f"random_numbers: expected numbers of draws and of places and a kind; got {(draws, size, kind)}"
        )


_op = FusedOp(
    "random_numbers",
    "(Tensor keys, int draws, int size, int kind, bool wide) -> Tensor",
    formula=random_formula,
    check=_check,
    fake=lambda keys, draws, size, kind, wide: (
        keys.new_empty((keys.shape[0], draws, size), dtype=torch.float64 if wide else torch.float32),
    ),
    indices=("keys",),
    expand_below=0,
)


def random_numbers(
    keys: Tensor, draws: int, size: int, kind: str = "normal", dtype: torch.dtype = torch.float32
) -> Tensor:
    r"""Make random numbers (B, draws, size) of which those of a row depend on its key alone.

    Element (b, k, i) is made of the words of Philox 4x32-10 at the key keys[b] and a counter of i, k and the kind; it
    is the same in every batch, on every device and at every call. Signs and uniform numbers are bitwise those of the
    formula, normal numbers up to rounding.

    Args:
        keys: (B,), int64, any 64 bits; `draw_keys` of `pyflowk.ops.draw` makes them from a torch generator.
        draws: how many independent draws a row has; the first k are those of a call with draws=k.
        size: numbers of a draw; the first n are those of a call with size=n.
        kind: "sign" (-1 or 1, as likely), "normal" (Box and Muller) or "uniform" (in (0, 1], from 32 bits).
        dtype: of the result, floating point; 16-bit results are rounded from float32, float16 to 0 where it must.

    Raises:
        ValueError, TypeError: keys of another shape or dtype, an unknown kind, negative numbers, a dtype of integers.

    Cost: ten rounds of two multiplications for 128 signs or four other numbers; no memory but the result's. It has no
    derivative. Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".

    >>> random_numbers(torch.tensor([7, 8]), 1, 6, "sign").shape
    torch.Size([2, 1, 6])
    >>> both, one = (random_numbers(torch.tensor(keys), 1, 6) for keys in ([7, 8], [8]))
    >>> torch.equal(both[1], one[0])
    True
    """
    if kind not in RANDOM:
        raise ValueError(f"kind: expected one of {', '.join(RANDOM)}; got {kind!r}")
    if dtype not in FLOATING:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, FLOATING))}; got {dtype}")
    if isinstance(keys, Tensor):
        keys = keys.contiguous()  # as kernels want indices
    return _op((keys, draws, size, RANDOM[kind], dtype == torch.float64))[0].to(dtype)
