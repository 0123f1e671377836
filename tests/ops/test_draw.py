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
    for room in ("ops", "transforms", "solvers", "nets", "objectives", "zoo", "flows.py"):
        for path in [PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                    "torch.rand", "torch.randn", "torch.randint", "torch.normal", "torch.bernoulli", "torch.multinomial",
                }:  # fmt: skip
                    for keyword in node.keywords:
                        maybe_none = keyword.arg == "generator" and isinstance(keyword.value, ast.Name)
                        if maybe_none and (room, path.name) != ("transforms", "conv1x1.py"):  # made, not called
                            found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    assert found == []
