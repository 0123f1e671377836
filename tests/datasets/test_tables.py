"""Tables: files of every kind that users bring, the split, and what cannot be learned from."""

import importlib.util

import numpy as np
import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets import Table, files, tables


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(3.0, [1.0, 10.0, 0.1], (50, 3))


def write(path, table, header="a,b,c"):
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".csv":
        lines = [header] * bool(header) + [",".join(map(repr, row)) for row in table.tolist()]
        path.write_text("\n".join(lines) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: table[:, i] for i, name in enumerate("abc")}), path)
    return str(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_tables_are_standardised_by_their_training_rows(tmp_path, table, suffix):
    data = datasets.load(write(tmp_path / f"t{suffix}", table), seed=3)
    assert (len(data.train), len(data.valid), len(data.test)) == (40, 5, 5) and data.space.shape == (3,)
    rows = tables.parts(50, seed=3)
    assert sorted(torch.cat(rows).tolist()) == list(range(50))
    train, *_ = (table[part] for part in rows)
    for part, got in zip(rows, (data.train, data.valid, data.test), strict=True):
        expected = (table[part] - train.mean(0)) / train.std(0, ddof=1)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    assert data.preparation.columns == (("a", "b", "c") if suffix != ".npy" else ())
    np.testing.assert_allclose(data.preparation.mean, train.mean(0), rtol=1e-14)
    np.testing.assert_allclose(data.preparation.std, train.std(0, ddof=1), rtol=1e-14)


def test_the_split_is_drawn_by_the_seed_and_the_future_can_be_asked_for(tmp_path):
    ramp = np.stack([np.arange(1000.0), np.arange(1000.0) ** 2], 1)  # a sorted file
    path = write(tmp_path / "ramp.npy", ramp)

    def test_rows(**options):
        data = datasets.load(path, **options)
        return data.preparation.undo(data.test)[:, 0].round().long().tolist()

    drawn = test_rows(seed=1)
    assert min(drawn) < 100 and max(drawn) >= 900 and len(set(drawn)) == 100
    assert test_rows(seed=1) == drawn != test_rows(seed=2)
    assert test_rows(seed=1, split="time") == list(range(900, 1000))
    with pytest.raises(ValueError, match="expected a table, but moons is none"):
        datasets.load("moons", split="time")


NUMBERS = [[0.5 + i, -i * 1.25, i % 7 + 0.125] for i in range(25)]


def text(head, separator=",", rows=NUMBERS):
    return "\n".join([*head, *(separator.join(map(str, row)) for row in rows)])


def index(rows=NUMBERS, start=0):
    return [[i, *row] for i, row in enumerate(rows, start)]


WHOLE = [[int(8 * x) for x in row] for row in NUMBERS]
CSV = {
    "names": (text(["temp,humidity,rain"]), ("temp", "humidity", "rain")),
    "no header": (text([]), ()),
    "quoted names": (text(['"temp, C", "humidity",rain']), ("temp, C", "humidity", "rain")),
    "semicolons": (text(["a;b;c"], ";"), ("a", "b", "c")),
    "tabs": (text(["a\tb\tc"], "\t"), ("a", "b", "c")),
    "blank lines": (text(["", "a,b,c", ""]) + "\n\n", ("a", "b", "c")),
    "windows": (text(["a,b,c"]).replace("\n", "\r\n"), ("a", "b", "c")),
    "numpy": (text(["# a,b,c"]), ("a", "b", "c")),
    "comments": (text(["# made by hand", "# on Monday", "a,b,c"]), ("a", "b", "c")),
    "comments, numpy": (text(["# made by hand, on Monday", "# a,b,c"]), ("a", "b", "c")),
    "comment, no header": (text(["# made by hand"]), ()),
    "sodium": (text(["na,k,cl"]), ("na", "k", "cl")),
    "years and a word": (text(["2019,2020,growth"]), ("2019", "2020", "growth")),
    "pandas, no names": (text(["0,1,2"]), ("0", "1", "2")),
    "pandas, index": (text([",a,b,c"], rows=index()), ("a", "b", "c")),
    "pandas, index, no names": (text([",0,1,2"], rows=index()), ("0", "1", "2")),
    "pandas, index read twice": (text(["Unnamed: 0,a,b,c"], rows=index()), ("a", "b", "c")),
    "pandas, index behind": (
        text(["a,b,c,__index_level_0__"], rows=[[*row, 7 * i] for i, row in enumerate(NUMBERS)]),
        ("a", "b", "c"),
    ),
    "R": (text(['"","a","b","c"'], rows=index(start=1)), ("a", "b", "c")),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", CSV)
def test_csv_files_give_all_their_rows_and_their_names(tmp_path, kind, encoding):
    content, columns = CSV[kind]
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode(encoding))
    found = datasets.read_table(str(path))
    assert found.columns == columns and found.values.tolist() == NUMBERS
    assert any("columns" in note for note in found.notes) and len(found.notes) == 1 + ("index" in kind or kind == "R")


def test_a_first_row_that_counts_is_a_header_unless_it_may_be_data(tmp_path):
    path = tmp_path / "t.csv"
    for head, rows, names, count in (
        ("0,1,2", WHOLE, ("0", "1", "2"), 25),
        ("0,1", [row[:2] for row in WHOLE], (), 26),  # two whole numbers: as likely data
        ("0,1", [row[:2] for row in NUMBERS], ("0", "1"), 25),
        ("0", [row[:1] for row in NUMBERS], ("0",), 25),
        ("0,2,1", WHOLE, (), 26),
        ("0.0,1.0,2.0", NUMBERS, (), 26),
    ):
        path.write_text(text([head], rows=rows))
        found = datasets.read_table(str(path))
        assert found.columns == names and len(found.values) == count, head


def test_an_unnamed_column_that_is_no_index_stays(tmp_path):
    (tmp_path / "t.csv").write_text(text([",b,c"]))
    assert datasets.read_table(str(tmp_path / "t.csv")).columns == ("0", "b", "c")


def column(values, name="t"):
    """25 rows of an ordinary column and this one."""
    return text(["x,t"], rows=[[i * 0.37, value] for i, value in enumerate(values)])


def with_one(value, at=7):
    return [value if i == at else i % 11 + i / 64 for i in range(200)]


BAD = {
    "short.csv": ("a,b\n1,2\n", r"at least 20 rows, got shape \(1, 2\)"),
    "empty.csv": ("", "expected a table with rows, got nothing"),
    "header.csv": ("a,b\n", "got only the header a, b"),
    "words.csv": ("a,b\n1,2\n3,x\n", r"line 3, column 'b': expected a number, got 'x'"),
    "gap.csv": ("a,b\n1,2\n\n3,\n", r"line 4, column 'b': expected a number, got nothing"),
    "gap first.csv": ("1,,2\n1,2,3\n", r"line 1, column 1: expected a number, got nothing"),
    "NA first.csv": ("1,NA,2\n1,2,3\n", r"line 1, column 1: expected a number, got 'NA'"),
    "decimal comma.csv": (
        "a;b\n1,5;2\n",
        r"line 2, column 'a': expected a number \(a point for decimals, .*, got '1,5'",
    ),
    "thousands.csv": ('a,b\n1,"1,234.5"\n', r"line 2, column 'b': expected a number \(.* nothing between thousands\)"),
    "underscore.csv": ("a,b\n1,1_2\n", r"line 2, column 'b': expected a number, got '1_2'"),
    "spaces.csv": ("a b\n1 2\n", r"line 2, column 'a b': expected a number, got '1 2'"),
    "ragged.csv": ("1,2\n1,2,3\n", r"line 2: expected 2 columns, got 3"),
    "twice.csv": ("a,b,a\n" + "1,2,3\n" * 30, "expected a name for each column, got 'a' twice"),
    "constant.csv": (column([0.1] * 30), r"column 't' is 0.1 in every row"),
    "nan.csv": (column(with_one("nan")), r"line 9, column 't': expected a finite number, got nan"),
    "inf.csv": (column(with_one("inf")), r"line 9, column 't': expected a finite number, got inf"),
    "far.csv": (column(with_one(1e12)), r"column 't': 1e\+12 \(line 9\) is so far from the other values"),
    "farther.csv": (column(with_one(-1e200)), r"column 't': -1e\+200 \(line 9\) is so far from the other values"),
    "farthest.csv": (column(with_one(1.7e308)), r"column 't': 1.7e\+308 \(line 9\) is so far from the other values"),
    "far flag.csv": (
        column([1e12 if i == 7 else i % 2 for i in range(200)]),
        r"column 't': 1e\+12 \(line 9\) is so far",
    ),
    "latin.csv": ("größe,b\n1,2\n".encode("latin-1"), r"latin\.csv, line 1: expected text in UTF-8"),
    "latin late.csv": (b"a,b\n1,2\n3,4 \xb5\n", r"line 3: expected text in UTF-8"),
    "utf-16 without mark.csv": ("a,b\n1,2\n".encode("utf-16-le"), r"without mark\.csv: expected text"),
    "array.csv": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}", r"array\.csv: expected text"),
    "broken.npy": ("no array", r"broken\.npy: expected a \.npy array of numbers, got something else"),
    "broken header.npy": (b"\x93NUMPY\x01\x00\x08\x00{'descr':", r"broken header\.npy: expected a \.npy array"),
    "broken zip.npy": (b"PK\x03\x04 no archive", r"broken zip\.npy: expected a \.npy array"),
    "broken.parquet": ("no table", r"broken\.parquet|pyarrow"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_named_with_line_and_column(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, ImportError), match=message) as caught:
        datasets.load(str(path))
    assert name in str(caught.value) or "pyarrow" in str(caught.value)


def test_a_column_that_is_constant_where_it_trains(tmp_path):
    rows = tables.parts(30, seed=0)
    values = torch.rand(30, 2).double()
    values[:, 1] = 5.0
    values[rows[2][0], 1] = 6.0  # it varies in the test rows only
    with pytest.raises(ValueError, match="column 'b' is 5 in every training row"):
        tables.prepare(Table("t", values, ("a", "b")), seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_rare_indicators_and_heavy_tails_are_fine(seed):
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(2000, 4, generator=noise).double()
    x[:, 1] = (torch.rand(2000, generator=noise) < 0.05).double()
    x[:, 2] = (3 * x[:, 2]).exp()
    x[:, 3] = 1 / x[:, 3]  # as heavy as Cauchy's
    assert bool(tables.prepare(Table("t", x), seed=seed).train.isfinite().all())


def test_columns_far_from_zero_keep_their_digits():
    small = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).double()
    near, far = (tables.prepare(Table("t", small + offset), seed=0) for offset in (0.0, 1e9))
    assert (near.train - far.train).abs().max() < 1e-6
    expected = (small + 1e9)[tables.parts(1000, 0)[2]]
    assert (far.preparation.undo(far.test) - expected).abs().max() < 5e-7
    huge = tables.prepare(Table("t", small * 1e250), seed=0)  # squares of it are infinite
    assert (huge.train - near.train).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", ["longdouble", "float32", "float16", ">f8", "int64", "uint16", "bool"])
def test_npy_of_any_real_dtype(tmp_path, dtype):
    x = (np.random.default_rng(0).normal(0, 3, (40, 2)) > 0 if dtype == "bool" else NUMBERS * 2) * np.ones(1)
    x = np.abs(x).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    assert datasets.read_table(str(tmp_path / "x.npy")).values.tolist() == x.astype(float).tolist()


def test_a_vector_is_one_column(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(30.0))
    assert datasets.load(str(tmp_path / "x.npy")).space.shape == (1,)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.array(["a", "b"]), "expected an array of numbers, got dtype <U1"),
        (np.ones((30, 2), complex), "expected an array of numbers, got dtype complex128"),
        (np.zeros(30, [("a", "f8"), ("b", "f8")]), "expected an array of numbers, got dtype"),
        (np.array([1, None]), "expected a .npy array of numbers, got something else"),
        (np.ones((3, 4, 5)), r"expected a table \(N, D\) of numbers, or pictures in bytes, got shape \(3, 4, 5\)"),
        (np.ones((0, 4)), r"got shape \(0, 4\)"),
        (np.array(1.0), r"got shape \(\)"),
    ],
)
def test_arrays_that_are_no_tables(tmp_path, array, message):
    np.save(tmp_path / "s.npy", array)
    with pytest.raises(ValueError, match=message):
        datasets.load(str(tmp_path / "s.npy"))


def test_a_renamed_archive_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", first=np.ones(3), second=np.ones(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy: expected one \.npy array, got a \.npz archive of first, second"):
        datasets.load(str(tmp_path / "x.npy"))


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: no such file"):
        datasets.load(str(tmp_path / "nothing.csv"))


def test_galaxies(tmp_path):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(
        FileNotFoundError, match=r"galaxy-data\.pkl is not in .*pip install --no-deps pzflow.*--data-dir"
    ):
        datasets.load("galaxies", data_dir=str(tmp_path))
    table = pandas.DataFrame(np.random.default_rng(0).normal(3, 2, (200, 7)), columns=["redshift", *"ugrizy"])
    table.to_pickle(tmp_path / "galaxy-data.pkl")
    redshift = datasets.load("galaxies", data_dir=str(tmp_path), given="ugrizy")
    assert redshift.space.shape == (1,) and redshift.space.context_dim == 6
    data = datasets.load("galaxies", data_dir=str(tmp_path))
    assert data.preparation.columns == ("redshift", *"ugrizy") and data.notes[0].startswith("columns: redshift, u, g")
    assert torch.equal(redshift.valid, data.valid[:, :1]) and torch.equal(redshift.valid_context, data.valid[:, 1:])
    assert (len(data.train), len(data.valid), len(data.test)) == (160, 20, 20) and data.space.shape == (7,)
    expected = table.to_numpy()[tables.parts(200, 0)[2]]
    np.testing.assert_allclose(data.preparation.undo(data.test).numpy(), expected, atol=1e-5)


def test_galaxies_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="in no installed package: pip install --no-deps pzflow"):
        datasets.load("galaxies")
