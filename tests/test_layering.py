"""Imports go down only: the floors of the house, checked over the syntax trees of all modules."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyflowk

PACKAGE = Path(pyflowk.__file__).parent

FLOORS: list[set[str]] = [
    {"_checks", "_hints"},  # plain Python
    {"alphabet", "columns", "manifolds"},
    {"space"},
    {"shapes"},
    {"ops"},
    {"distributions", "transforms", "paths", "solvers", "nets"},
    {"flows", "objectives", "metrics"},
    {"zoo"},
    {"cli", "training", "datasets", "compat", "selfcheck"},
]
#: Rooms that may use a neighbour on their own floor: the command line drives everything, a trainer is fed data sets,
#: estimators of other packages' habits are fitted by the trainer, a
#: continuous transform is an integral, transforms and solvers ask their networks by the base classes of nets, and a
#: network may be the velocity of a path, from whose noise solvers walk to data; a pairing knows its noise.
NEIGHBOURS = {
    "cli": {"training", "datasets", "compat", "selfcheck"},
    "training": {"datasets"},
    "compat": {"training", "datasets"},
    "transforms": {"solvers", "nets"},
    "nets": {"paths"},
    "paths": {"distributions"},
    "solvers": {"nets", "paths"},
}


def floor(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    return floor("ops") if room.startswith("_") else 0  # _native loads the ops


def allowed(source: str, target: str) -> bool:
    if source == target or floor(target) < floor(source) or {floor(source), floor(target)} == {floor("ops")}:
        return True
    return target in NEIGHBOURS.get(source, set())


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of pyflowk's own modules in a module that lies in ``package``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*start, *(node.module.split(".") if node.module else ()))
            paths = [(*stem, alias.name) for alias in node.names]
        else:
            continue
        for path in paths:
            if path[0] == "pyflowk" and len(path) > 1:
                yield node.lineno, path[1]


def violations(code: str, module: tuple[str, ...], is_package: bool = False) -> list[str]:
    """What a module, such as ("pyflowk", "zoo", "nice"), imports against the rule."""
    package = module if is_package else module[:-1]
    room = module[1] if len(module) > 1 else ""
    found = imports(ast.parse(code), package)
    return [f"{'.'.join(module)}:{line} imports {target}" for line, target in found if not allowed(room, target)]


def modules() -> Iterator[tuple[Path, tuple[str, ...]]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("pyflowk", *path.relative_to(PACKAGE).with_suffix("").parts)
        yield path, parts[:-1] if parts[-1] == "__init__" else parts


def test_no_module_imports_upward_or_sideways() -> None:
    found: list[str] = []
    for path, module in modules():
        if module[1:] not in ((), ("__main__",)):  # the package itself gathers all rooms
            found += violations(path.read_text(), module, path.name == "__init__.py")
    assert found == []


def test_every_room_has_a_floor() -> None:
    rooms = {module[1] for _, module in modules() if len(module) > 1 and not module[1].startswith("_")}
    assert rooms - set().union(*FLOORS) == set()


def test_the_picture_in_contributing_shows_these_floors() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    picture = text.partition("## The house\n\n```\n")[2].partition("```")[0]
    words = [re.findall(r"\w+", floor) for floor in re.sub("(?m)(?<=^.{47}).*", "", picture).split("floor ")[1:]]
    rooms = set().union(*FLOORS)
    assert [rooms.intersection(floor) for floor in words[::-1]] == [FLOORS[1] | FLOORS[2] | FLOORS[3], *FLOORS[4:]]


@pytest.mark.parametrize(
    "code, module, count",
    [
        ("from ..zoo import create", "pyflowk.nets.mlp", 1),
        ("from .. import transforms", "pyflowk.solvers.sde", 1),
        ("import pyflowk.transforms.base", "pyflowk.nets.mlp", 1),
        ("def f():\n    from pyflowk.flows import Flow", "pyflowk.objectives.nll", 1),
        ("from pyflowk import training", "pyflowk.datasets.images", 1),
        ("from .transforms import Scale\nfrom .zoo import nice", "pyflowk.flows", 1),
        ("from ..flows import Flow\nfrom ..shapes import sample_shape", "pyflowk.distributions.gaussian", 1),
        ("from ..datasets import Dataset\nfrom ..objectives import nll", "pyflowk.metrics.levels", 2),
        ("from ._checks import require_counts\nfrom .ops.dtypes import state_dtype", "pyflowk.space", 1),
        ("from ..ops.masks import slices\nfrom .base import Transform\nimport torch", "pyflowk.transforms.coupling", 0),
        ("from ..training import Trainer\nfrom .. import zoo", "pyflowk.cli.main", 0),
        ("from .. import _native", "pyflowk.ops.affine_coupling", 0),
    ],
)
def test_the_check_itself(code: str, module: str, count: int) -> None:
    assert len(violations(code, tuple(module.split(".")))) == count


@pytest.mark.parametrize("room", ["", *sorted({m[1] for _, m in modules() if len(m) > 1 and not m[1].startswith("_")})])
def test_help_names_what_a_package_holds(room: str) -> None:
    module = importlib.import_module(f"pyflowk.{room}".rstrip("."))
    names = getattr(module, "__all__", [])
    assert [name for name in names if f"`{name}`" not in module.__doc__ and f"`{name}(" not in module.__doc__] == []
    assert set(names) <= set(dir(module)) and (names or room in ("cli", "flows"))
