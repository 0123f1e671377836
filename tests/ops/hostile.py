"""Calls every op by its raw names with arguments that nobody should hand it; a child process of test_hostile.py.

    python -m tests.ops.hostile LOG SEED CALLS [NAME]

Each call is written to LOG before it is made, so that what killed the process can be read there. An exception is as
good an answer as a result.
"""

from __future__ import annotations

import inspect
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyflowk import _cpu
from pyflowk.ops import _router
from pyflowk.ops.made_dense import dense_op, packed_op
from pyflowk.ops.made_solve import made_solve
from pyflowk.selfcheck import TRIALS
from tests.ops.cases import ALL_CASES
from tests.ops.cases.made import layout

ROWS, MEMORY = 3, 6 << 30
INTEGERS = (-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 5, 17, 64, 2**31 - 1, 2**31, 2**62, 2**62 + 1, 2**63 - 1, 2**64)
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 1e-300, 5e-324, 0.5, 1.0, 2.0, 80.0, 1e30, 1e300)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool,
          torch.complex64)  # fmt: skip
STRANGE = (None, "nan", (), 1.5, True, torch.zeros(()), object(), torch.Tensor)


def recorded() -> dict[str, list[tuple[Any, ...]]]:
    """Valid arguments of every op, forward and backward, by its name: what cases bring about, or else the trials."""
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _router._ops}
    route = _router.FusedOp.__call__

    def note(op: _router.FusedOp, args: tuple[Any, ...], inplace: bool = False, consume: bool = False) -> Any:
        found[op.name].append(copied(args))
        return route(op, args, inplace, consume)

    _router.FusedOp.__call__ = note  # type: ignore[method-assign]
    try:
        for case in ALL_CASES:
            inputs = tuple(t.requires_grad_() for t in case.inputs(ROWS, torch.float32))
            outputs = case.call(*inputs)
            torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs])
        plan, one = layout(2, (3,), False, 2), torch.ones(ROWS, 4)  # what MADE is made of on cards alone
        config = plan.plan, 2, plan.hidden, 2
        packed_op((*dense_op((weights := torch.zeros(len(plan.source)), *config)), weights, *config))
        made_solve(one[:, 2:], one[:, 1:], one, one, weights, plan.plan, plan.hidden, 0)
    finally:
        _router.FusedOp.__call__ = route  # type: ignore[method-assign]
    for name, trial in TRIALS.items():
        if not found[name]:
            found[name] = [(*trial.tensors(config, ROWS, torch.float32), *config) for config in trial.configs]
    if missing := [name for name, calls in found.items() if not calls]:
        raise RuntimeError(f"no case and no trial calls {', '.join(missing)}")
    return found


def copied(argument: Any) -> Any:
    """Tensors, also those in lists, cut off from what made them."""
    if isinstance(argument, Tensor):
        return argument.detach().clone()
    return type(argument)(map(copied, argument)) if isinstance(argument, (list, tuple)) else argument


def targets() -> list[tuple[str, Callable[..., Any], list[tuple[Any, ...]]]]:
    """Every callable of the library's namespace and of the compiled module, with arguments that it takes."""
    valid = recorded()
    found = [(f"torch.ops.pyflowk.{name}", getattr(torch.ops.pyflowk, name), calls) for name, calls in valid.items()]
    valid["_elementary"] = [(torch.linspace(-3, 3, 9), function) for function in range(6)]
    for name, function in inspect.getmembers(_cpu, callable):
        if name not in ("Snapshot", "_allocate_by") and not name.startswith("__"):
            found.append((f"pyflowk._cpu.{name}", function, valid[name]))
    return found


# ---- mutations -------------------------------------------------------------------------------------------------------


def reshaped(t: Tensor, chance: random.Random) -> Tensor:
    dim = chance.randrange(t.ndim) if t.ndim else 0
    ways: list[Callable[[], Tensor]] = [
        lambda: t.unsqueeze(dim), t.flatten, lambda: t[None], lambda: torch.cat([t, t], dim), lambda: t.sum(dim),
        lambda: t.narrow(dim, 0, 0), lambda: t.narrow(dim, 0, max(0, t.shape[dim] - 1)), lambda: t.new_zeros(()),
        lambda: t.new_empty(0), lambda: t.movedim(dim, -1), lambda: t.new_zeros(*[2] * chance.randrange(9)),
        lambda: t[:1], lambda: t.reshape(*t.shape, 1),
    ]  # fmt: skip
    return chance.choice(ways)()


def restrided(t: Tensor, chance: random.Random) -> Tensor:
    dim = chance.randrange(t.ndim)
    ways: list[Callable[[], Tensor]] = [
        lambda: torch.stack([t, t], -1)[..., 0],
        lambda: t.movedim(dim, 0).contiguous().movedim(0, dim),
        lambda: t.narrow(dim, 0, 1).expand(t.shape),
        lambda: torch.cat([t, t], dim).unflatten(dim, (-1, 2)).select(dim + 1, 0),
        lambda: t.as_strided(t.shape, [0] * t.ndim),
        lambda: t.new_zeros(t.numel() + 1)[1:].view(t.shape),
    ]
    return chance.choice(ways)()


def refilled(t: Tensor, chance: random.Random) -> Tensor:
    t = t.clone()
    if t.dtype == torch.int64:
        t.view(-1)[chance.randrange(t.numel())] = chance.choice(INTEGERS[:-1])
        return t if chance.random() < 0.7 else torch.full_like(t, chance.choice(INTEGERS[:-1]))
    value = chance.choice(NUMBERS)
    return t.fill_(value) if chance.random() < 0.5 else t.index_fill_(0, torch.tensor([0]), value)


def elsewhere(t: Tensor, chance: random.Random) -> Any:
    ways: list[Callable[[], Any]] = [
        lambda: t.to("meta"), lambda: t.to(chance.choice(DTYPES)), lambda: t.to(chance.choice(DTYPES[:4])),
        lambda: t.to_sparse(), lambda: t.numpy(), lambda: t.tolist(), lambda: torch.nn.Parameter(t),
        lambda: chance.choice(STRANGE), lambda: t.clone().requires_grad_(), lambda: t._neg_view(), type(t),
    ]  # fmt: skip
    return chance.choice(ways)()


def mutated(argument: Any, chance: random.Random) -> Any:
    """Something else in the place of one argument."""
    if isinstance(argument, Tensor):
        return chance.choice((reshaped, reshaped, restrided, refilled, elsewhere))(argument, chance)
    if isinstance(argument, (list, tuple)):
        at = chance.randrange(len(argument) + 1)
        if argument and chance.random() < 0.5:
            at = min(at, len(argument) - 1)
            return [*argument[:at], mutated(argument[at], chance), *argument[at + 1 :]]
        one = argument[0] if argument and chance.random() < 0.5 else chance.choice((*INTEGERS, *NUMBERS, None))
        ways = [argument[:at], [*argument, one], [*argument[:at], one, *argument[at + 1 :]], [], argument * 9, None]
        return chance.choice(ways)
    pool = INTEGERS if isinstance(argument, int) else NUMBERS
    return chance.choice(pool) if chance.random() < 0.85 else chance.choice((*NUMBERS, *STRANGE))


def mangled(arguments: tuple[Any, ...], chance: random.Random) -> tuple[Any, ...]:
    """Valid arguments with one to three of them changed, sometimes with one too few, one too many or two swapped."""
    changed = list(arguments)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(changed))
        changed[at] = mutated(changed[at], chance)
    if chance.random() < 0.08:
        at, other = chance.randrange(len(changed)), chance.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    elif chance.random() < 0.05:
        del changed[chance.randrange(len(changed))]
    elif chance.random() < 0.05:
        changed.append(chance.choice((*STRANGE, *INTEGERS)))
    return tuple(changed)


def shown(argument: Any) -> str:
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(map(shown, argument))}]"
    if not isinstance(argument, Tensor):
        return repr(argument)[:200]
    text = f"{argument.dtype} {tuple(argument.shape)} {argument.device}"
    hidden = type(argument) not in (Tensor, torch.nn.Parameter) or argument.layout != torch.strided
    if not hidden:
        text += f" strides {argument.stride()}"
    if argument.dtype == torch.int64 and argument.device.type == "cpu" and argument.numel() < 40 and not hidden:
        text += f" {argument.tolist()}"
    return text.replace("torch.", "")


def main(log: str, seed: int, calls: int, only: str = "") -> None:
    torch.set_num_threads(1)
    chosen = [target for target in targets() if only in target[0]]
    if "libasan" not in Path("/proc/self/maps").read_text():  # whose shadow memory is larger than any limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answered = refused = 0
    with open(log, "r+b", buffering=0) as file:
        for turn in range(calls):
            chance = random.Random(seed * 1_000_003 + turn)
            name, function, valid = chosen[turn % len(chosen)]
            torch.manual_seed(turn)
            try:
                arguments = mangled(chance.choice(valid), chance)
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue  # no such mutation of this one
            line = f"{name}, seed {seed}, call {turn}: {'; '.join(map(shown, arguments))}"
            file.seek(0)
            file.truncate()
            file.write(line.encode())
            try:
                function(*arguments)
                answered += 1
            except Exception:
                refused += 1
    print(f"{len(chosen)} ops, {answered} calls answered, {refused} refused")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
