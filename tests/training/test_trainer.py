import csv
import io
import math
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from pyflowk import datasets, training, zoo
from pyflowk.datasets import Dataset
from pyflowk.space import Context, Space
from pyflowk.training import Checkpoint, CheckpointError, NonFiniteLoss, TrainConfig, Trainer, log
from pyflowk.training.log import COLUMNS, read_rows

CONFIG = TrainConfig(steps=12, batch_size=32, warmup=3, log_every=2, validate_every=4, tensorboard=False, cpu=True)
SMALL = {"couplings": 2, "width": 16, "depth": 1, "architecture": "vector"}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def trainer(data, out, config=CONFIG, resume=False, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = zoo.create("realnvp", data.space.shape, levels=data.space.levels, **SMALL, **options)
    return Trainer(model, data, config, out=out, resume=resume)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def files(out):
    saved = Checkpoint.open(out)
    return {name: saved.weights(name) for name in ("model", "ema", "best")}


@pytest.mark.parametrize("until", [1, 4, 7])
def test_a_resumed_run_is_bit_for_bit_the_straight_one(digits, tmp_path, until):
    straight = trainer(digits, tmp_path / "a", classes=10)
    full = straight.run()
    assert full.step == 12 and not full.interrupted

    stopped = trainer(digits, tmp_path / "b", classes=10)
    assert stopped.run(until=until).step == until
    torch.manual_seed(99)  # a new process would have another state
    result = trainer(digits, tmp_path / "b", classes=10, resume=True).run()
    assert result.step == 12 and result.best == full.best

    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert all(same(a[name], b[name]) for name in a)
    first, second = (Checkpoint.open(tmp_path / run).state()["optimizer"]["state"] for run in "ab")
    assert all(same(first[i], second[i]) for i in first)
    a, b = ([r["valid_loss"] for r in read_rows(tmp_path / run / "log.csv") if r["step"] in (4, 8, 12)] for run in "ab")
    assert len(a) == 3 and a == b


def test_what_was_found_of_all_rows_is_kept(tmp_path, monkeypatch):
    """The transport of noise to all rows takes long to fit: a run that goes on has it."""
    monkeypatch.setattr("pyflowk.zoo.matching_model.FIT", 20)
    data = datasets.load("moons")

    def run(out, resume=False):
        torch.manual_seed(0)
        model = zoo.create("flow_matching", data.space.shape, width=8, depth=1, pairing="semidiscrete")
        return Trainer(model, data, CONFIG, out=out, resume=resume)

    run(tmp_path / "a").run()
    run(tmp_path / "b").run(until=4)
    monkeypatch.setattr("pyflowk.paths.Semidiscrete.fit", None)
    run(tmp_path / "b", resume=True).run()
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert all(same(a[name], b[name]) for name in a)


def test_the_weights_of_this_step_are_validated(tmp_path):
    """Without a moving average it is the model's own packed weights that a fused optimiser leaves behind."""
    data, config = datasets.load("moons"), replace(CONFIG, ema=0.0, steps=8)
    model = zoo.create("maf", data.space.shape, width=16, blocks=2)
    Trainer(model, data, config, out=tmp_path / "run").run()
    losses = [row["valid_loss"] for row in read_rows(tmp_path / "run" / "log.csv") if row["step"] in (4, 8)]
    fresh = Trainer(zoo.create("maf", data.space.shape, width=16, blocks=2), data, config, out=tmp_path / "fresh")
    fresh.model.load_state_dict(model.state_dict())
    assert losses[1] == pytest.approx(fresh._validate()[0], rel=1e-5) and losses[0] != pytest.approx(
        losses[1], rel=1e-3
    )


@pytest.mark.parametrize("budget", [{"steps": 6}, {"steps": 7}, {"steps": None, "minutes": 1e-4}])
def test_the_last_step_is_validated(tmp_path, budget):
    """Also where the log's last line comes before a validation is due."""
    config = replace(CONFIG, **budget)
    Trainer(zoo.create("nice", (2,)), datasets.load("moons"), config, out=tmp_path).run()
    last = read_rows(tmp_path / "log.csv")[-1]
    assert last["step"] == Checkpoint.open(tmp_path).meta["step"] and math.isfinite(last["valid_loss"])


def test_dropout_continues_where_it_was(tmp_path):
    """Random numbers of torch's global generator are part of the state."""

    class Noisy(zoo.GenerativeModel):
        def __init__(self):
            super().__init__(Space((2,)))
            self.net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 1))
            torch.nn.init.ones_(self.net[1].weight)

        def loss(self, x, context=None, generator=None):
            return (self.net(x).squeeze(1) - 1).square()

    data = datasets.load("moons")
    results = []
    for stops in ([None], [5, None]):
        torch.manual_seed(3)
        for i, until in enumerate(stops):
            run = Trainer(Noisy(), data, CONFIG, out=tmp_path / str(len(stops)), resume=i > 0)
            run.run(until)
        results.append(run.model.state_dict())
    assert same(*results)


def test_training_lowers_the_loss_and_logs_it(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, steps=60, lr=5e-3))
    result = run.run()
    with (tmp_path / "log.csv").open() as file:
        assert tuple(csv.DictReader(file).fieldnames) == COLUMNS
    rows = read_rows(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == list(range(2, 61, 2))
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    assert rows[0]["bits_per_dim"] == pytest.approx(rows[0]["loss"] / (64 * math.log(2)), rel=1e-4)
    valid = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert len(valid) == 15 and result.best == pytest.approx(min(valid), rel=1e-5)
    assert rows[0]["lr"] < rows[2]["lr"] and rows[-1]["lr"] < 0.01 * 5e-3
    assert Checkpoint.open(tmp_path).meta["best_valid_loss"] == result.best


def test_the_best_weights_are_those_of_the_best_validation(digits, tmp_path):
    """Few samples and a high rate: the run overfits, and what is kept is not the last."""
    data = replace(digits, train=digits.train[:40], train_context=None)
    run = trainer(data, tmp_path, replace(CONFIG, steps=300, lr=2e-2, validate_every=10, ema=0.5))
    result = run.run()
    rows = [row for row in read_rows(tmp_path / "log.csv") if "valid_loss" in row]
    assert result.best < 0.95 * rows[-1]["valid_loss"]
    model, _ = training.load_model(tmp_path, "best")
    noise = torch.Generator().manual_seed(run.config.seed)
    with torch.no_grad():
        assert model.loss(data.valid, None, noise).double().mean().item() == pytest.approx(result.best)


def test_the_average_follows_its_formula(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, steps=3, ema=0.9))
    name = next(key for key, p in run.model.named_parameters() if p.ndim >= 2)
    expected = None
    for step in range(3):
        run.run(until=step + 1)
        current = run.model.state_dict()[name].double()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = current if expected is None else decay * expected + (1 - decay) * current
    assert torch.allclose(run.averaged.state_dict()[name].double(), expected, atol=1e-7)


def test_without_average_the_model_itself_is_validated(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, ema=0.0))
    run.run()
    assert run.averaged is run.model and run.model.training
    saved = files(tmp_path)
    assert same(saved["model"], saved["ema"])


def test_data_dependent_layers_are_set_before_the_first_step(digits, tmp_path):
    run = trainer(digits, tmp_path)
    norms = [m for m in run.model.modules() if hasattr(m, "is_initialized")]
    assert norms and all(norm.is_initialized for norm in norms)


def test_clipping_and_weight_decay_reach_the_optimizer(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, weight_decay=0.25, clip=1e-9, steps=1))
    decays = {p.ndim >= 2: group["weight_decay"] for group in run.state.optimizer.param_groups for p in group["params"]}
    assert decays == {True: 0.25, False: 0.0}
    run._train_step(0.0)
    moments = [state["exp_avg"].abs().max() for state in run.state.optimizer.state.values()]
    assert max(moments) <= 1e-9


@pytest.mark.parametrize("lr", [1e25, 3e37])
def test_a_non_finite_loss_stops_and_says_where(digits, tmp_path, lr):
    run = trainer(digits, tmp_path, replace(CONFIG, lr=lr, save_every=1, warmup=0, clip=0.0))
    with pytest.raises(NonFiniteLoss) as caught:
        run.run()
    text = str(caught.value)
    assert f"at step {run.step}, learning rate" in text and "layer flow" in text
    assert f"the last good checkpoint (step {run.step}) is in {tmp_path / 'checkpoint'}" in text
    assert Checkpoint.open(tmp_path).meta["step"] == run.step
    assert "\n" not in text


def test_non_finite_data_is_told_apart(tmp_path):
    x = torch.randn(64, 2)
    data = Dataset("bad", Space((2,)), torch.cat([x, torch.full((1, 2), math.nan)]), x, x)
    run = Trainer(zoo.create("realnvp", (2,), **SMALL), replace(data, train=x), CONFIG, out=tmp_path)
    run.data = run.feed.data = data
    run.batches.count = 65
    with pytest.raises(NonFiniteLoss, match="first non-finite in the batch itself"):
        run.run()


def test_a_signal_ends_the_run_after_its_step(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, steps=None, minutes=5.0))
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    started = time.monotonic()
    result = run.run()
    assert result.interrupted and result.step > 0 and time.monotonic() - started < 60
    assert Checkpoint.open(tmp_path).meta["step"] == result.step
    assert signal.getsignal(signal.SIGINT) is before


def test_a_budget_of_time_ends_by_the_clock(digits, tmp_path):
    run = trainer(digits, tmp_path, replace(CONFIG, steps=None, minutes=0.02))
    result = run.run()
    assert result.seconds >= 1.2 and not result.interrupted
    assert trainer(digits, tmp_path, replace(CONFIG, steps=None, minutes=0.02), resume=True).run().step == result.step


def test_resume_needs_a_checkpoint_that_fits(digits, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        trainer(digits, str(tmp_path / "none"), resume=True)
    trainer(digits, tmp_path, replace(CONFIG, steps=1)).run()
    with pytest.raises(ValueError, match="holds a checkpoint already: pass resume=True to go on"):
        trainer(digits, tmp_path)
    with pytest.raises(CheckpointError, match="was trained on: 22000 rows where there were 1797"):
        trainer(datasets.load("moons"), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="do not fit"):
        trainer(digits, tmp_path, resume=True, classes=10)


def test_only_nats_become_bits(digits, tmp_path):
    """Regularisers act in training: its loss is no likelihood, that of the validation is; a bound is one, too."""
    small = {"architecture": "vector", "width": 8, "depth": 1, "steps": 1}
    config = replace(CONFIG, steps=1, log_every=1, validate_every=1)
    for number, (name, options, columns) in enumerate(
        (
            ("ffjord", {"kinetic": 0.01, **small}, {"valid_bits_per_dim"}),
            ("ffjord", small, {"bits_per_dim", "valid_bits_per_dim"}),
            ("realnvp", {**SMALL, "dequantize": "variational"}, {"bits_per_dim", "valid_bits_per_dim"}),
        )
    ):
        out = tmp_path / str(number)
        run = Trainer(zoo.create(name, digits.space.shape, levels=17, **options), digits, config, out=out)
        run.run()
        (row,) = read_rows(out / "log.csv")
        assert {column for column in row if "bits" in column} == columns
        assert row["valid_bits_per_dim"] == pytest.approx(row["valid_loss"] / (64 * math.log(2)), rel=1e-4)

    class Matching(zoo.GenerativeModel):
        def __init__(self):
            super().__init__(digits.space)
            self.weight = torch.nn.Parameter(torch.ones(()))

        def loss(self, x, context=None, generator=None):
            return (self.weight * x).square().flatten(1).sum(1)

    Trainer(Matching(), digits, config, out=tmp_path / "other").run()
    (row,) = read_rows(tmp_path / "other" / "log.csv")
    assert "loss" in row and not any("bits" in column for column in row)


def test_data_that_do_not_fit_the_model_are_named(digits, tmp_path):
    with pytest.raises(ValueError, match=r"expected events of 2, .*; those of digits are of 1x8x8 of 17"):
        Trainer(zoo.create("nice", (2,)), digits, CONFIG, out=tmp_path)
    with pytest.raises(ValueError, match=r"expected events of 2, .*; those of digits are of 1x8x8 of 17"):
        training.evaluate(zoo.create("nice", (2,)), digits)
    with pytest.raises(ValueError, match=r"expected events of 1x8x8 of 9 levels, .* of 1x8x8 of 17"):
        Trainer(zoo.create("nice", (1, 8, 8), levels=9), digits, CONFIG, out=tmp_path)
    with pytest.raises(ValueError, match=r"digits, train: expected integers 0 to 8 \(9 levels\), got 0 to 16"):
        replace(digits, space=replace(digits.space, levels=9))
    with pytest.raises(
        ValueError, match=r"digits, labels of train: expected integers 0 to 3 \(4 classes\), got 0 to 9"
    ):
        replace(digits, space=replace(digits.space, context=Context("labels", 4)))


def test_a_line_shows_the_last_validation_and_a_rise_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "PLAIN_LINE_SECONDS", 0.0)
    losses = [3.0, 2.0, 2.5, 2.4, 2.3, 2.6, 2.7, 2.8, 1.0]
    texts = []
    for start in (0, 8):  # the rows of the first run are those that the second goes on from
        console = Console(file=io.StringIO(), width=200)
        with log.RunLog(tmp_path, console, start, tensorboard=False) as run:
            for step in range(1, 9) if not start else range(9, 19):
                row = {"step": step, "loss": 5.0, "samples_per_second": 1.0}
                run.write(row | ({"valid_loss": losses[step // 2 - 1]} if step % 2 == 0 else {}), 0.5)
        texts.append(console.file.getvalue())
    assert "step 3   50 %  loss 5.000 valid loss 3.000" in texts[0] and "step 1   50 %  loss 5.000  1" in texts[0]
    assert "overfitting" not in texts[0] and texts[1].count("overfitting") == 1
    assert "has not come below 2.000, that of step 4, for 5 times: overfitting? the weights of step 4" in texts[1]


def test_a_run_that_is_over_before_a_line_is_due_shows_its_end(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with log.RunLog(tmp_path, console, 0, tensorboard=False) as run:
        for step, progress in ((1, 0.5), (2, 1.02)):
            run.write({"step": step, "loss": 5.0, "samples_per_second": 1.0, "valid_loss": 4.0}, progress)
    assert console.file.getvalue() == "step 2  100 %  loss 5.000 valid loss 4.000  1 samples/s\n"


def test_tensorboard_is_optional(digits, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer(digits, tmp_path, replace(CONFIG, steps=1, tensorboard=True)).run()
    assert "tensorboard is not installed (pip install tensorboard)" in capsys.readouterr().out


def test_tensorboard_events(digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(digits, tmp_path, replace(CONFIG, tensorboard=True)).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("valid_bits_per_dim")
    assert [event.step for event in scalars] == [4, 8, 12]
    rows = read_rows(tmp_path / "log.csv")
    assert scalars[-1].value == pytest.approx(rows[-1]["valid_bits_per_dim"], rel=1e-5)


def test_log_prob_is_seeded_and_averages_draws(digits):
    model = zoo.create("nice", digits.space.shape, levels=17, width=8)
    x = digits.test[:50]
    one, again = (training.log_prob(model, x, seed=1) for _ in range(2))
    assert torch.equal(one, again) and model.training
    assert torch.allclose(training.log_prob(model, x, seed=1, batch_size=7), one, atol=1e-3)
    many = training.log_prob(model, x, seed=1, draws=8)
    assert not torch.equal(one, many) and abs((one - many).mean().item()) < 10
