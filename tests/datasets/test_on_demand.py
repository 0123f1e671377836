"""Files that do not fit in memory: what is read on demand is what would be there if they did."""

from __future__ import annotations

import copy
import os
import pickle
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyflowk import datasets, metrics
from pyflowk.datasets import Preparation, mapped, memory, rows
from pyflowk.datasets.files import digest
from pyflowk.datasets.moments import Moments, moments
from pyflowk.datasets.rows import Joined, OnDemand, Picked

RNG = np.random.default_rng(0)
ROWS = RNG.normal([3.0, -1e6, 5.0], [1.0, 10.0, 0.1], (4000, 3))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that small files are many pieces, and scratch files begin early."""
    monkeypatch.setattr("pyflowk.datasets.rows.PIECE", 1000)
    monkeypatch.setattr(mapped, "LOOK", 100)


def write(path, table=ROWS):
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".csv":
        path.write_text("a,b,c\n" + "\n".join(",".join(map(repr, row)) for row in table.tolist()) + "\n")
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = dict(zip("abc", table.T))
        parquet.write_table(sys.modules["pyarrow"].table(columns), path, row_group_size=700)
    return str(path)


def both(path, **options):
    """The data set in memory and on demand."""
    near, far = datasets.load(path, **options), datasets.load(path, memory=0, **options)
    assert far.on_demand and not near.on_demand and far.space == near.space and far.notes == near.notes
    return near, far


def content(data):
    return digest(*(part for name in ("train", "valid", "test") for part in data.take(name)))


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
@pytest.mark.parametrize("options", [{"seed": 3}, {"split": "time"}, {"given": ["1"]}])
def test_a_table_is_the_same(tmp_path, suffix, options):
    near, far = both(write(tmp_path / f"x.{suffix}"), **options)
    assert far.fingerprint == near.fingerprint and len(far.train) == 3200
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(far.preparation, name), getattr(near.preparation, name), rtol=1e-12)
    same = datasets.load(near.origin["name"], memory=0, **{**options, "given": (), "preparation": near.preparation})
    assert content(same) == content(near)  # as a run that goes on prepares it, bit for bit
    rows = torch.tensor([5, 0, 3199])
    assert all(torch.equal(a, b) for a, b in zip(same.take("train", rows), near.take("train", rows)) if b is not None)


@pytest.mark.parametrize("dtype", [">f4", "int16", "bool"])
def test_arrays_of_every_dtype_and_order(tmp_path, dtype):
    numbers = np.asfortranarray(RNG.integers(0, 2 if dtype == "bool" else 99, (500, 2)).astype(dtype))
    near, far = both(write(tmp_path / "x.npy", numbers), preparation=Preparation.identity(2))
    assert far.fingerprint == near.fingerprint and content(far) == content(near)


@pytest.mark.parametrize("shape", [(90, 5, 4), (90, 1, 5, 4), (90, 3, 5, 4)])
def test_arrays_of_pictures_are_the_same_bit_for_bit(tmp_path, shape):
    near, far = both(write(tmp_path / "x.npy", RNG.integers(0, 256, shape).astype("uint8").repeat(2, 0)), seed=2)
    assert far.fingerprint == near.fingerprint and content(far) == content(near)
    assert far.notes == ("90 pictures identical to another: copies stay on one side of the split",)


def pictures(folder, kind):
    for i in range(24):
        path = folder / "ab"[i % 2] / f"{i:02}.{'tif' if kind == 'deep' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (6, 5, 3)).astype("uint8") if i > 3 else np.full((6, 5, 3), 8, "uint8")
        if kind in ("grey", "deep") or (kind == "mixed" and i % 3):
            pixels = pixels[..., 0]
        if kind == "deep" and i % 3:
            pixels = np.where(pixels == 8, 8, pixels * (9.0 if i == 10 else 1.0)).astype("float32")
        Image.fromarray(pixels).save(path)
    return str(folder)


@pytest.mark.parametrize("kind", ["grey", "colour", "mixed", "deep"])
@pytest.mark.parametrize("size", [None, 4])
def test_a_folder_of_pictures_is_the_same_bit_for_bit(tmp_path, kind, size):
    near, far = both(pictures(tmp_path, kind), seed=1, size=size)
    assert far.fingerprint == near.fingerprint and content(far) == content(near)
    assert any("identical" in note for note in far.notes)


def test_a_picture_that_has_gone_or_changed_is_named(tmp_path):
    data = datasets.load(pictures(tmp_path, "grey"), memory=0)
    order = data.train.order
    paths = data.train.source.source.paths
    paths[order[0]].unlink()
    Image.new("L", (9, 9)).save(paths[order[1]])
    for row, message in ((0, "not a readable picture|No such file"), (1, "has changed: 9 x 9 pixels now")):
        with pytest.raises((ValueError, OSError), match=rf"{paths[order[row]].name}.*({message})"):
            data.take("train", torch.tensor([row]))


@pytest.mark.parametrize("shape", [(900, 3), (900, 3, 2)])
def test_an_array_that_was_shortened_is_named(tmp_path, shape):
    """What is mapped and not there any more ends a process without a word."""
    path = write(tmp_path / "x.npy", RNG.integers(0, 256, shape).astype("uint8"))
    data = datasets.load(path, memory=0)
    first = data.take("train", torch.tensor([0]))[0]
    copies = copy.deepcopy(data), pickle.loads(pickle.dumps(data))  # which hold the rows
    os.truncate(path, 500)
    assert all(torch.equal(x.take("train", torch.tensor([0]))[0], first) for x in copies)
    for numbers in (torch.tensor([700]), slice(0, 5)):
        with pytest.raises(ValueError, match=r"x.npy: has changed: 500 bytes where there were [\d,]+$"):
            data.take("train", numbers)


def test_columns_of_parquet_that_cannot_be_told_apart_are_named(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = [sys.modules["pyarrow"].array(ROWS[:41, i]) for i in (0, 1, 1)]
    table = sys.modules["pyarrow"].Table.from_arrays(columns, names=["a", "b", "b"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: expected a name for each column, got 'b' twice"):
        datasets.load(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("shape", [(0, 8, 8), (60, 0, 8)])
def test_arrays_of_no_pictures_are_named(tmp_path, shape):
    path = write(tmp_path / "x.npy", np.zeros(shape, "uint8"))
    with pytest.raises(ValueError, match=r"x.npy: expected a table \(N, D\) of numbers, or pictures .*, got shape"):
        datasets.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.__setitem__((2900, 1), np.nan), "row 2900, column 1: expected a finite number, got nan"),
        (lambda x: x.__setitem__((3999, 2), -np.inf), "row 3999, column 2: expected a finite number, got -inf"),
        (lambda x: x.__setitem__((slice(None), 0), 4), "expected columns that vary, but column 0 is 4 in every row"),
        (lambda x: x.__setitem__((1234, 2), 1e30), r"column 2: 1e\+30 \(row 1234\) is so far from the other values"),
    ],
)
def test_what_cannot_be_learned_from_is_named(tmp_path, change, message):
    rows = ROWS.copy()
    change(rows)
    path = write(tmp_path / "x.npy", rows)
    for allowed in (None, 0):
        with pytest.raises(ValueError, match=message):
            datasets.load(path, memory=allowed)


def test_moments_of_pieces_are_those_of_all():
    rows = torch.from_numpy(ROWS) * torch.tensor([1e-200, 1.0, 1e300], dtype=torch.float64)
    added = sum((Moments.of(piece) for piece in rows.split(333)[1:]), Moments.of(rows[:333]))
    whole = moments(rows)
    for name in ("low", "high", "mean", "std"):
        torch.testing.assert_close(getattr(added, name), getattr(whole, name), rtol=1e-12, atol=0)
    assert added.count == whole.count == 4000


def test_rows_of_rows(tmp_path):
    found = datasets.files.read_file(Path(write(tmp_path / "x.npy")), memory=0).values
    order = torch.tensor([7, 1, 4, 1])
    part = Picked(found, order)
    joined = Joined(part, found)
    assert isinstance(found, OnDemand) and torch.equal(part[:], torch.from_numpy(ROWS[order]))
    assert part.in_place()[:].tolist() == ROWS[[1, 1, 4, 7]].tolist()
    assert joined[torch.tensor([4, 0, 2])].tolist() == ROWS[[0, 7, 4]].tolist()
    assert joined[3:6].tolist() == ROWS[[1, 0, 1]].tolist() and len(joined) == 4004


def test_a_scratch_file_has_no_name_and_a_full_disk_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.csv")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    table = datasets.files.read_file(tmp_path / "x.csv", memory=0)
    assert isinstance(table.values, OnDemand) and not list(scratch.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(mapped.ScratchError, match=f"{scratch}: no room for a scratch file.*TMPDIR names another"):
            datasets.load(path, memory=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_eighth_of_the_memory_is_for_data(monkeypatch):
    before = memory.allowance()
    used = 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    limits = {resource.RLIMIT_DATA: used + 80 * 2**20}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY),) * 2)
    assert 9 * 2**20 < memory.allowance() <= 10 * 2**20 < before
    assert memory.fits(10, 10) and not memory.fits(11, 10)


def test_pieces_are_looked_at_on_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("pyflowk.metrics.levels.PIECE", 1000)
    values = datasets.files.read_file(Path(write(tmp_path / "x.npy")), memory=0).values
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert {torch.get_num_threads() for _ in rows.pieces(values)} == {1}
        assert {torch.get_num_threads() for _ in metrics.levels.pieces(values, 3)} == {1}
        assert {torch.get_num_threads() for _ in metrics.levels.pieces(values[:9], 3)} == {2}
        next(rows.pieces(values))  # and no more of it
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
