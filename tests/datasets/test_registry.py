"""Data sets by name: a file that lies in sets/ is known, and what it gives is what it gave before."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pyflowk import datasets
from pyflowk.cli import main
from pyflowk.datasets import Table, registry, sets
from pyflowk.datasets.files import digest
from pyflowk.space import Space

#: Of the three parts and their labels, before the sets had files of their own; of those without sines and sums, which
#: processors round in their own ways.
DIGESTS = {"digits": "cfa6633f0d26ad819cc5d62f4517ae77", "checkerboard": "7ef4edb09f70db383a3d4a456b1e21bc"}


def content(data):
    return digest(*(part for name in ("train", "valid", "test") for part in data.take(name)))


def test_every_file_registers_something_and_every_name_is_described(capsys):
    owners = [entry.owner for entry in registry._ENTRIES.values()]
    files = sorted(path.stem for path in Path(sets.__file__).parent.glob("*.py") if path.stem != "__init__")
    assert {owner.split(".")[3] for owner in owners if owner.startswith(f"{sets.__name__}.")} == set(files)
    assert main(["data"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and text in printed for name, text in datasets.describe().items())


@pytest.mark.parametrize("name", DIGESTS)
def test_the_values_are_those_of_before(name):
    assert content(datasets.load(name, seed=3)) == DIGESTS[name]


def test_a_registered_loader_is_known_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", {})

    @datasets.register("points", "twice the seed")
    def points(seed):
        return datasets.Dataset("points", Space((2,)), *torch.full((3, 4, 2), 2.0 * seed))

    @datasets.register("rows", "a table", files=True)
    def rows(seed, data_dir):
        return Table(f"rows of {data_dir}", torch.arange(60.0).reshape(30, 2).double(), ("a", "b"))

    data = datasets.load("points", seed=4)
    assert data.test.eq(8).all() and data.origin["name"] == "points" and "points" in datasets.names()
    table = datasets.load("rows", data_dir="here", given=["b"])
    assert str(table.space) == "1 given numbers (B, 1)" and table.name == "rows of here" and len(table.train) == 24
    with pytest.raises(ValueError, match=r"the data set 'points' is there already, by .*points; .*rows needs another"):
        datasets.register("points", "others")(rows)
    datasets.register("points", "again")(points)
    datasets.register("part", "of a function")(partial(rows, data_dir="there"))
    assert datasets.load("part").name == "rows of there"
    with pytest.raises(TypeError, match="data set: expected a name, got ''"):
        datasets.register("", "nameless")(points)
