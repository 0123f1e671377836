"""apply_edits against edits one after the other in Python: order, room, rows by themselves, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import apply_edits

BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def edits(rows: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def some(share: float) -> Tensor:
        tokens = torch.randint(0, 9, (rows, n), generator=generator)
        return torch.where(torch.rand(rows, n, generator=generator) < share, tokens, -1)

    x = torch.randint(0, 9, (rows, n), generator=generator)
    lengths = torch.randint(0, n + 1, (rows,), generator=generator)
    delete = torch.rand(rows, n, generator=generator) < 0.3
    return x, lengths, some(0.5), delete, some(0.4)


def one_by_one(x: Tensor, length: int, insert: Tensor, delete: Tensor, substitute: Tensor, limit: int) -> list[int]:
    made = []
    room = limit - (length - int(delete[:length].sum()))
    for i in range(length):
        if not delete[i]:
            made.append(int(substitute[i] if substitute[i] >= 0 else x[i]))
        if insert[i] >= 0 and room > 0:
            made.append(int(insert[i]))
            room -= 1
    return made


@every_backend
@pytest.mark.parametrize("n, limit", [(9, 9), (9, 12), (70, 140), (1, 1), (0, 2)])
def test_against_one_after_the_other(n: int, limit: int, name: str) -> None:
    given = edits(20, n)
    with pyflowk.backend(name):
        values, lengths, dropped = apply_edits(*given, limit=limit, pad=-7)
        alone = apply_edits(*(t[5:6] for t in given), limit=limit, pad=-7)
    assert values.shape == (20, limit)
    for row, (x, length, insert, delete, substitute) in enumerate(zip(*given)):
        made = one_by_one(x, int(length), insert, delete, substitute, limit)
        assert values[row].tolist() == made + [-7] * (limit - len(made)) and lengths[row] == len(made)
        wanted = int((insert[:length] >= 0).sum()) + int((~delete[:length]).sum())
        assert dropped[row] == wanted - len(made)
    assert all(torch.equal(whole[5:6], one) for whole, one in zip((values, lengths, dropped), alone))
    assert n < 9 or limit == 140 or dropped.any()


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    x, lengths, insert, delete, substitute = edits(3, 4)
    with pyflowk.backend(name):
        with pytest.raises(TypeError, match=r"delete must be torch.bool; got torch.int64"):
            apply_edits(x, lengths, insert, insert, substitute)
        with pytest.raises(TypeError, match=r"x must be torch.int64; got torch.float32"):
            apply_edits(x.float(), lengths, insert, delete, substitute)
        with pytest.raises(ValueError, match=r"x and its edits \(B, N\); got \(3, 4\) and \(3, 3\)"):
            apply_edits(x, lengths, insert[:, :3], delete, substitute)
        with pytest.raises(ValueError, match="limit must be at least the 4 places of x; got 3"):
            apply_edits(x, lengths, insert, delete, substitute, limit=3)
        with pytest.raises(ValueError, match="lengths must be 0 to 4; got 5 to 5"):
            apply_edits(x, torch.full((3,), 5), insert, delete, substitute)
        assert apply_edits(*(t[:0] for t in (x, lengths, insert, delete, substitute))).values.shape == (0, 4)
