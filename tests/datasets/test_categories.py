"""Tables of texts and numbers as symbols: read, learned, drawn, judged and written back."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.columns import Column, decode_cells, encode_cells
from pyflowk.datasets import load
from pyflowk.metrics import column_distance, tree_level
from pyflowk.nets import ColumnField
from pyflowk.space import Space


def adults(path: Path, rows: int = 400) -> Path:
    """Who earns more is likelier married; hours are missing here and there, weights are many, ages go with work."""
    generator = torch.Generator().manual_seed(0)
    work = torch.randint(3, (rows,), generator=generator)
    married = torch.rand(rows, generator=generator) < 0.5
    rich = torch.rand(rows, generator=generator) < torch.where(married, 0.9, 0.1)
    age = 20 + 15 * work + torch.randint(10, (rows,), generator=generator)
    lines = ["age,workclass,married,weight,hours,income"]
    for i in range(rows):
        hours = "" if i % 10 == 0 else str(20 + 20 * int(rich[i]))
        kind = ("Private", "State-gov", "?")[int(work[i])]
        lines.append(
            f"{age[i]},{kind},{'yes' if married[i] else 'no'},{i / 7:.3f},{hours},{'>50K' if rich[i] else '<=50K'}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_tables_are_symbols_and_come_back(tmp_path: Path) -> None:
    data = load(str(adults(tmp_path / "adult.csv")), bins=8)
    columns = data.space.columns
    assert columns is not None and Space.from_json(data.space.as_json()) == data.space
    assert data.space.sizes == (8, 3, 2, 8, 3, 2) and [c.numeric for c in columns] == [1, 0, 0, 1, 1, 0]
    assert columns[4].values == ((20.0, 20.0), (40.0, 40.0), None) and columns[1].values[0] == "?"
    shares = data.train[:, 3].bincount() / len(data.train)
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8), atol=0.004, rtol=0)  # as many rows in each bin
    back = decode_cells(data.test, columns, torch.Generator().manual_seed(0))
    cells = {c.name: [row[i] for row in back] for i, c in enumerate(columns)}
    numbers = {k: torch.tensor([float(v or "nan") for v in cells[k]]).double() for k in ("age", "weight", "hours")}
    assert torch.equal(encode_cells({**cells, **numbers}, columns), data.test)
    assert "bins: age, weight" in data.notes[0] and all(age.isdigit() for age in cells["age"])
    beyond = columns[0].encode(torch.tensor([-5.0, 1e9], dtype=torch.float64))
    assert beyond.tolist() == [0, 7]
    with pytest.raises(ValueError, match=r"column 'workclass': expected one of 3 texts, .* got 'Nobody' in row 1"):
        columns[1].encode(["Private", "Nobody"])
    with pytest.raises(ValueError, match=r"expected one of 3 texts, .* got an empty cell in row 0"):
        columns[1].encode(["", "Private"])
    with pytest.raises(ValueError, match=r"column 'age': expected numbers, got 'old' in row 2$"):
        columns[0].encode(["11", "86", "old"])
    assert columns[4].encode(["", "40"]).tolist() == [2, 1]  # of a file whose other rows are no numbers
    with pytest.raises(ValueError, match="column 'age': expected finite numbers, got inf in row 0"):
        columns[0].encode(torch.tensor([math.inf], dtype=torch.float64))
    for values, known in (((7.0, 7.0), None), "7 in every row"), ((None,), "no numbers"):
        with pytest.raises(ValueError, match=f"column 'x': expected {known}, got 9 in row 1"):
            Column("x", values).encode(torch.tensor([math.nan, 9.0], dtype=torch.float64))
    strange = {"age": torch.tensor([30.0, 11.0, 86.0]).double()}
    with pytest.warns(UserWarning, match=r"taken for its nearest: age, 2 of 3 outside of 20 to 59"):
        assert encode_cells(strange, columns[:1])[1:].flatten().tolist() == [0, 7]
    with pytest.raises(ValueError, match="column 'age': expected numbers, got none in row 1"):
        columns[0].encode(torch.tensor([3.0, math.nan], dtype=torch.float64))
    with pytest.raises(ValueError, match="expected up to 1000 different texts, got 1100"):
        (tmp_path / "names.csv").write_text("a,b\n" + "".join(f"x{i},1\n" for i in range(1100)), encoding="utf-8")
        load(str(tmp_path / "names.csv"), as_symbols=True)
    with pytest.raises(ValueError, match=r"expected a number, got '\?'; --bins 32 takes rows with texts for symbols"):
        load(str(tmp_path / "adult.csv"))
    with pytest.raises(ValueError, match="bins: expected a table, but help-topics is none"):
        load("help-topics", bins=3)
    with pytest.raises(ValueError, match=r"ranges .* that rise"):
        Column("x", ((3.0, 4.0), (1.0, 2.0)))


def test_a_tree_of_columns_is_the_best_of_its_kind() -> None:
    """A chain of columns, shuffled: its own law is what the tree finds, to what the counts tell."""
    generator = torch.Generator().manual_seed(0)
    chain = [torch.randint(3, (20_000,), generator=generator)]
    for _ in range(3):
        kept = torch.rand(20_000, generator=generator) < 0.8
        chain.append(torch.where(kept, chain[-1], torch.randint(3, (20_000,), generator=generator)))
    x = torch.stack([chain[i] for i in (2, 0, 3, 1)], 1)
    space = Space((4,), symbols=3, columns=tuple(Column(str(i), ("a", "b", "c")) for i in range(4)))
    stays, moves = 0.8 + 0.2 / 3, 0.2 / 3
    exact = math.log2(3) + 3 * -(stays * math.log2(stays) + 2 * moves * math.log2(moves))
    parts = x.split(10_000)
    tree, alone = tree_level(space, *parts), tree_level(space, *parts, independent=True)
    assert tree is not None and alone is not None and tree.unit == "row" and tree.bits_error is not None
    assert abs((tree.bits or 0) - exact) < 4 * tree.bits_error and abs((alone.bits or 0) - 4 * math.log2(3)) < 0.01
    assert column_distance(x[:10_000], x[10_000:]) < 0.02 and column_distance(x, x.flip(1), 2) < 0.01
    torn = torch.cat((x[:, :1].roll(1, 0), x[:, 1:]), 1)
    assert column_distance(x, torn) < 1e-12 and column_distance(x, torn, 2) > 0.1


def test_columns_keep_to_their_symbols() -> None:
    field = ColumnField((2, 5, 1), width=8, depth=1, heads=1, time=None)
    for p in field.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    p = field(0.0, torch.tensor([[5, 5, 5], [1, 4, 0]])).softmax(-1)
    assert (p[:, 0, 2:] == 0).all() and (p[:, 2, 0] == 1).all() and (p[:, 1] > 0).all()
    assert not torch.allclose(p[0], p[1])
    with pytest.raises(ValueError, match="column 0: expected symbols 0 to 1, got 2"):
        field(0.0, torch.tensor([[2, 0, 0]]))
    space = Space((2,), symbols=3, columns=(Column("a", ("x", "y")), Column("b", ("x", "y", "z"))))
    with pytest.raises(ValueError, match="columns of a table expect source mask"):
        zoo.discrete_flow(space, source="uniform", width=8, depth=1)
    assert (zoo.discrete_flow(space, width=8, depth=1).sample(50)[:, 0] < 2).all()


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, run = adults(tmp_path / "adult.csv"), tmp_path / "run"
    small = ["--set", "width=16", "depth=1", "heads=1", "--sampling", "steps=6"]
    assert main(["train", "discrete_flow", "--data", str(table), "--out", str(run), "--steps", "60", *small]) == 0
    said = capsys.readouterr().out
    assert "bits/row" in said and "independent columns" in said and "tree of columns" in said
    assert (run / "samples.csv").read_text(encoding="utf-8").startswith("age,workclass,married")
    assert main(["sample", str(run), "-n", "30", "--out", str(tmp_path / "new.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "new.csv").open(encoding="utf-8")))
    assert len(rows) == 30 and {row["income"] for row in rows} == {">50K", "<=50K"}
    assert main(["eval", str(run), "--data", str(adults(tmp_path / "other.csv", 60))]) == 0
    assert "all 60 samples" in capsys.readouterr().out
    assert main(["train", "realnvp", "--data", str(table), "--bins", "4", "--out", str(tmp_path / "no")]) == 2
