import json
import math
import re

import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets import Preparation, Table, files

WEATHER = Preparation((20.0, 60.0, 1 / 3), (5.0, 10.0, 1e-3), ("temp", "humidity", "rain"), given=(2, 0))


def test_rows_go_there_and_back():
    rows = torch.tensor([[25.0, 40.0, 0.334], [20.0, 61.0, 0.3]], dtype=torch.float64)
    z, context = WEATHER.apply(rows)
    assert z.dtype == context.dtype == torch.float32 and z.shape == (2, 1) and context.shape == (2, 2)
    torch.testing.assert_close(z[:, 0], torch.tensor([-2.0, 0.1]))
    torch.testing.assert_close(context[0], torch.tensor([2 / 3, 1.0]), rtol=1e-5, atol=0)  # in the order asked for
    torch.testing.assert_close(WEATHER.undo(z, context), rows, rtol=1e-7, atol=0)
    assert torch.equal(WEATHER.undo(z, context[:1])[:, [0, 2]], WEATHER.undo(z, context)[[0, 0]][:, [0, 2]])
    assert torch.equal(WEATHER.undo(z)[:, 0], WEATHER.undo(z, context)[:, 1])


def test_json_holds_every_bit():
    exact = Preparation((math.pi, 1e9 + 1 / 3), (1e-300, 2**-0.5), ("a", "b"), (1,))
    text = json.dumps(exact.as_json(), allow_nan=False)
    assert Preparation.from_json(json.loads(text)) == exact
    one = {"mean": [1.0], "std": [1.0]}
    moments = ({"std": []}, {"std": [0.0]}, {"std": [math.nan]}, {"std": [None]}, {"mean": [math.inf]}, {"mean": ["a"]})
    for wrong in (*(one | m for m in moments), one | {"columns": ["a", "b"]}, one | {"given": [1]}, {"mean": [1.0]}):
        with pytest.raises((ValueError, TypeError)):
            Preparation.from_json(wrong)


def test_a_density_is_carried_to_the_units_of_the_table():
    """A standard normal over z is the normal of the table's mean and standard deviation over x."""
    both = Preparation((3.0, -2.0), (0.5, 20.0))
    x = torch.tensor([[3.5, 10.0], [1.0, -60.0]], dtype=torch.float64)
    z, _ = both.apply(x)
    got = torch.distributions.Normal(0, 1).log_prob(z.double()).sum(1) - both.log_scale
    expected = torch.distributions.Normal(torch.tensor([3.0, -2.0]), torch.tensor([0.5, 20.0])).log_prob(x).sum(1)
    torch.testing.assert_close(got, expected.double(), rtol=1e-6, atol=0)
    assert both.conditioned([0]).log_scale == math.log(20.0)


def test_columns_are_called_by_name_or_number():
    assert WEATHER.conditioned(["rain", 0]).given == WEATHER.conditioned(["2", "temp"]).given == (2, 0)
    swapped = Preparation((0.0, 0.0), (1.0, 1.0), ("1", "0"))  # of two meanings the name
    assert swapped.find("1") == 0 and swapped.find(1) == 1
    for columns, message in (
        (["tmp"], "no column 'tmp' (did you mean 'temp'?): there are temp, humidity, rain"),
        (["3"], "no column '3': there are temp, humidity, rain"),
        (["-1"], "no column '-1'"),
        (["temp", "0"], "expected some of the columns temp, humidity, rain, each once; got ['temp', '0']"),
        (["temp", "rain", "humidity"], "each once"),
        ([], "each once"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            WEATHER.conditioned(columns)
    with pytest.raises(ValueError, match=r"no column 'temp': there are 0 to 1$"):
        Preparation.identity(2).find("temp")


def test_values_of_given_columns():
    assert torch.equal(WEATHER.context({"temp": 30, "rain": 1 / 3}), torch.tensor([[0.0, 2.0]]))
    for values, message in (
        ({"temp": 1.0}, "expected a value for each of rain, temp; rain missing"),
        ({"temp": 1.0, "rain": math.nan}, "column 'rain': expected a finite number, got nan"),
        ({"temp": 1.0, "0": 2.0}, "column 'temp' stands twice"),
        ({"temp": 1.0, "humidity": 2.0}, "column 'humidity' is not given but modelled; given are rain, temp"),
    ):
        with pytest.raises(ValueError, match=message):
            WEATHER.context(values)
    with pytest.raises(ValueError, match="no given columns"):
        Preparation.identity(2).context({"0": 1.0})


def test_tables_are_matched_by_name():
    values = torch.tensor([[1.0, 0.3, 60.0, 20.0]], dtype=torch.float64)
    z, context = WEATHER.apply(Table("t", values, ("more", "rain", "humidity", "temp")))
    assert z.tolist() == [[0.0]] and context[0, 1] == 0
    with pytest.raises(ValueError, match="t: expected the columns temp, humidity, rain; rain missing, there are temp"):
        WEATHER.apply(Table("t", values[:, :2], ("temp", "humidity")))
    with pytest.raises(ValueError, match=r"rows of 3 columns \(temp, humidity, rain\), got shape \(1, 4\)"):
        WEATHER.apply(values)
    with pytest.raises(ValueError, match="t, row 0: expected a finite number near 20 in column 'temp', got 1e\\+200"):
        WEATHER.apply(Table("t", torch.tensor([[1e200, 1.0, 1.0]], dtype=torch.float64)))


def test_rows_are_written_with_the_digits_that_count(tmp_path):
    preparation = Preparation((1e9, 0.0), (1.0, 1e-6), ("far, far", "small"))
    rows = torch.tensor([[1e9 + 0.125, 1.5e-6], [1e9 - 3, -2e-12]], dtype=torch.float64)
    files.write_csv(tmp_path / "t.csv", rows, preparation.columns, preparation.digits)
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == '"far, far",small'
    found = datasets.read_table(str(tmp_path / "t.csv"))
    assert found.columns == preparation.columns and (found.values - rows).abs().max() < 1e-9
