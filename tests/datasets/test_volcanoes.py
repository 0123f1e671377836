"""Volcanoes: a table of places as points of the sphere, and what is said where there is none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets.sets.volcanoes import VOLCANOES, unit_vectors
from pyflowk.space import Space


def written(folder: Path, rows: int = 40) -> Path:
    lines = [f'{i},"Name, {i}",{-80 + 4 * i},{-179.5 + 9 * i}' for i in range(rows)]
    (folder / VOLCANOES).write_text("\n".join(['"Number","Name","Latitude","Longitude"', *lines]))
    return folder


def test_places_are_points(tmp_path: Path) -> None:
    data = datasets.load("volcanoes", data_dir=str(written(tmp_path)), seed=3)
    assert data.space == Space((3,), manifold="sphere")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [32, 4, 4]
    rows = torch.cat([part[:] for part in (data.train, data.valid, data.test)])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(40))
    latitude = rows[:, 2].double().asin().rad2deg().sort().values
    torch.testing.assert_close(latitude, torch.arange(-80.0, 80, 4).double(), rtol=0, atol=1e-3)


def test_the_axes() -> None:
    corners = unit_vectors(torch.tensor([0.0, 0.0, 0.0, -90.0]), torch.tensor([0.0, 90.0, 180.0, 7.0]))
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, -1]])
    torch.testing.assert_close(corners, expected, rtol=0, atol=1e-6)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not in .*: pip install --no-deps pyvolcans, or .*--data-dir"):
        datasets.load("volcanoes", data_dir=str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="is in no installed package"):
        datasets.load("volcanoes")


@pytest.mark.skipif(importlib.util.find_spec("pyvolcans") is None, reason="pyvolcans, which holds the table, is absent")
def test_the_package_has_all_of_them() -> None:
    data = datasets.load("volcanoes")
    assert sum(len(part) for part in (data.train, data.valid, data.test)) == 1439
    assert "pyvolcans" not in sys.modules


def test_points_off_the_manifold_are_no_data() -> None:
    rows = torch.ones(4, 3)
    with pytest.raises(
        ValueError, match=r"ball, train: expected points of Sphere\(\(3,\)\), got one that is off by 0.73"
    ):
        datasets.Dataset("ball", Space((3,), manifold="sphere"), rows, rows, rows)
