"""Random numbers are drawn in one place, which a compiler can trace with symbolic sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
from torch import Generator, Tensor

import pyflowk
from pyflowk.ops.draw import draw_integers, draw_normal, draw_uniform

PACKAGE = Path(pyflowk.__file__).parent


def draws(x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    place = {"dtype": torch.float64, "device": x.device}
    return (
        draw_uniform(x.shape, generator, **place),
        draw_normal(x.shape[:1], generator, **place),
        draw_integers(-2, 3, x.shape, generator, device=x.device),
    )


def test_a_compiler_draws_the_same_numbers_at_every_size() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(draws, fullgraph=True, backend="aot_eager")
    for rows in (2, 3, 5):
        expected, got = [], []
        for found, run in ((expected, draws), (got, compiled)):
            torch.manual_seed(rows)
            found += run(torch.zeros(rows, 2))
        assert all(map(torch.equal, expected, got))


def test_the_generator_that_is_handed_in_is_the_one() -> None:
    before = torch.get_rng_state()
    one, other = (draws(torch.zeros(4, 2), Generator().manual_seed(3)) for _ in range(2))
    assert all(map(torch.equal, one, other)) and torch.equal(torch.get_rng_state(), before)
    assert one[0].min() >= 0 and one[0].max() < 1 and one[2].min() >= -2 and one[2].max() <= 2


def test_nothing_draws_past_it() -> None:
    """A generator that may be None goes to torch through ops/draw.py, or a symbolic size breaks the call."""
    found = []
    for room in ("distributions", "flows.py", "ops", "transforms", "solvers", "nets", "objectives", "zoo"):
        for path in [PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py"):
            if path.name != "conv1x1.py":  # draws when it is made, not when it is called
                found += [f"{path.name}:{line}" for line in passes_none(path.read_text())]
    assert found == []
    assert passes_none("torch.randn(3, generator=generator)") == [1]


def passes_none(code: str) -> list[int]:
    """The lines where torch is handed a generator that may be None."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = {f"torch.{name}" for name in ("rand", "randn", "randint", "normal", "bernoulli", "multinomial")}
    return [
        call.lineno
        for call in calls
        if ast.unparse(call.func) in names
        and any(word.arg == "generator" and isinstance(word.value, ast.Name) for word in call.keywords)
    ]
