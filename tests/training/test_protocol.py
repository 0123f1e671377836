"""Systems that are nothing like a flow, in the tests alone: they train, go on, draw, are judged and come back.

One models sequences of several lengths; the other has a moving target, a frozen teacher, and options of its samples.
"""

import contextlib
import itertools
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from pyflowk import datasets, training, zoo
from pyflowk.space import Context, Ragged, Space
from pyflowk.training import Checkpoint, CheckpointError, TrainConfig, Trainer, parts
from pyflowk.training.ema import MovingAverage
from pyflowk.training.log import read_rows
from pyflowk.training.spaces import check_fit, contexts
from tests import toys

CONFIG = TrainConfig(
    steps=12, batch_size=32, warmup=3, lr=0.05, log_every=2, validate_every=4, sample_every=4, ema=0.9,
    tensorboard=False, cpu=True, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def registered():
    with toys.registered():
        yield


def trainer(system, out, config=CONFIG, resume=False, **options):
    data = datasets.load("moons" if system == "follower" else "tokens")
    space = replace(data.space, context=None)
    torch.manual_seed(0)
    return Trainer(zoo.create(system, space), data, config, out=out, resume=resume, **options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("system, drawn", [("unigrams", "txt"), ("follower", "png")])
def test_a_resumed_run_is_bit_for_bit_the_straight_one_whether_it_draws_or_not(system, drawn, tmp_path):
    """Targets that move, samples drawn on the way, and the random numbers of torch are where they were."""
    trainer(system, tmp_path / "a", replace(CONFIG, sample_every=0)).run()
    trainer(system, tmp_path / "b").run(until=5)
    torch.manual_seed(99)
    run = trainer(system, tmp_path / "b", resume=True)
    run.run()
    a, b = (Checkpoint.open(tmp_path / name) for name in "ab")
    assert b.meta["step"] == 12 and all(same(a.weights(name), b.weights(name)) for name in ("model", "ema", "best"))
    assert torch.equal(a.state()["cpu_rng"], b.state()["cpu_rng"])
    losses = [[row["loss"] for row in read_rows(tmp_path / name / "log.csv")][-3:] for name in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    pictures = {f"step-{step:06d}.{drawn}" for step in (4, 8, 12)}
    assert {path.name for path in (tmp_path / "b" / "samples").iterdir()} == pictures
    assert not (tmp_path / "a" / "samples").exists()


def test_what_is_trained_averaged_and_saved(tmp_path):
    run = trainer("follower", tmp_path)
    model, average = run.model, run.averaged
    teacher = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    assert not any(p.requires_grad for part in (model.target, model.teacher) for p in part.parameters())
    optimised = {id(p) for group in run.state.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.net.parameters()} == {id(p) for p in run.state.parameters}
    moved = []
    model.after_step = lambda step: (moved.append(step), type(model).after_step(model, step))[1]
    run.run()
    assert moved == list(range(1, 13))  # the number of the step that was taken, each once
    assert average.teacher is model.teacher and same(teacher, model.teacher.state_dict())
    assert not model.teacher.training and model.net.training and not average.net.training
    assert same(average.target.state_dict(), model.target.state_dict())  # taken over, not averaged
    assert not torch.equal(average.net[0].weight, model.net[0].weight)
    saved = Checkpoint.open(tmp_path)
    for name in ("model", "ema", "best"):
        keys = saved.weights(name).keys()
        assert {key.split(".")[0] for key in keys} == {"net", "target"}
    again, _ = training.load_model(tmp_path, "last")
    assert same(again.teacher.state_dict(), teacher) and same(again.target.state_dict(), model.target.state_dict())
    with pytest.raises(CheckpointError, match=r"do not fit this version's model: .*net.0.weight"):
        saved.load_into(zoo.create("follower", (3,)), "model")
    bare = trainer("follower", tmp_path / "bare", replace(CONFIG, ema=0.0))
    bare.run()
    assert bare.averaged is bare.model and same(bare.model.teacher.state_dict(), teacher)
    model.net[0].bias = model.teacher[0].bias  # which is frozen, with everybody who shares it
    with pytest.raises(ValueError, match=r"net.0.bias, of the rest, and teacher.0.bias, of teachers, are one tensor"):
        parts.freeze(model)
    model.around = torch.nn.Sequential(model.teacher)  # as what guides a field wraps it
    model.net[0].bias, model.target[1].running_var = model.net[3].bias, model.net[1].running_var  # ties of one kind
    with pytest.raises(ValueError, match=r"of teachers, and around.*, of the rest, .* or both among the same parts"):
        parts.freeze(model)
    model.teachers = ("teacher", "around")
    parts.freeze(model)
    assert "around" not in {key.split(".")[0] for key in parts.saved(model)}
    assert MovingAverage(model, 0.9, model.targets, model.teachers).module.around[0] is model.teacher
    model.targets = ("nett",)
    with pytest.raises(ValueError, match=r"Follower: expected a part of it, among targets or teachers; .*nett"):
        parts.freeze(model)


def test_frozen_parts_are_none_of_the_other_processes_business(tmp_path):
    """DistributedDataParallel waits for the gradient of every parameter that wants one: those of targets never come."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        x = torch.randn(8, 2)
        for freezes in (True, False):
            model = zoo.create("follower", (2,))
            if freezes:
                parts.freeze(model)
            net = torch.nn.parallel.DistributedDataParallel(model)
            net(x).sum().backward()
            expected = contextlib.nullcontext() if freezes else pytest.raises(RuntimeError, match="unused parameter")
            with expected:
                net(x)
    finally:
        torch.distributed.destroy_process_group()


def test_samples_on_the_way_start_from_the_same_noise(tmp_path):
    """Nothing is learned, nothing changes; something is, and it does; what cannot be drawn ends no run."""
    texts = {}
    for name, lr in (("still", 1e-12), ("learning", 0.05)):
        trainer("unigrams", tmp_path / name, replace(CONFIG, lr=lr)).run()
        texts[name] = [path.read_text() for path in sorted((tmp_path / name / "samples").iterdir())]
    assert len(set(texts["still"])) == 1 and len(set(texts["learning"])) == 3
    rows = [line.split() for line in texts["still"][0].splitlines()]
    assert len(rows) == 64 and {len(row) for row in rows} >= {1, 5, 12} and {s for r in rows for s in r} == set("0123")
    run = trainer("follower", tmp_path / "broken")
    run.model._sample = run.averaged._sample = lambda *rest: 1 / 0
    assert run.run().step == 12 and not list((tmp_path / "broken" / "samples").glob("*"))


def test_contexts_that_a_model_needs_are_asked_for_before_it_trains(tmp_path):
    data = datasets.load("labelled")
    with pytest.raises(ValueError, match=r"expected labels \(B,\) below 2 for the rows of valid, got none"):
        Trainer(zoo.create("unigrams", data.space), replace(data, valid_context=None), CONFIG, out=tmp_path)


def test_data_without_rows_to_train_on_or_to_validate_are_an_error_in_words(tmp_path):
    data = datasets.load("tokens")
    data = replace(data, space=replace(data.space, context=None))
    for part in ("train", "valid"):
        with pytest.raises(ValueError, match=f"tokens: expected rows to train on and to validate, got none of {part}"):
            Trainer(zoo.create("unigrams", data.space), replace(data, **{part: data.test[:0]}), CONFIG, out=tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2, 25])
@pytest.mark.parametrize("system", ["unigrams", "follower"])
def test_few_test_rows_are_judged_by_what_can_be_said_of_them(system, count):
    data = datasets.load("moons" if system == "follower" else "tokens")
    data = replace(data, test=data.test[:count], test_context=None)
    report = training.evaluate(zoo.create(system, replace(data.space, context=None)), data)
    assert bool(report.samples) == (count >= 20) and report.lines() and json.dumps(report.as_dict(), allow_nan=False)


def test_models_that_cannot_be_trained_say_why(tmp_path):
    class Odd(toys.Follower):
        into = staticmethod(lambda loss: loss)

        def loss(self, *given):
            return self.into(super().loss(*given))

    folders = (tmp_path / str(number) for number in itertools.count())

    def run(**changes):
        model = Odd(Space((2,)), 0.9)
        for name, value in changes.items():
            setattr(model, name, value)
        data = datasets.load("moons")
        return Trainer(model, data, replace(CONFIG, steps=1, sample_every=0), out=next(folders)).run()

    for changes, message in (
        ({"targets": ("net", "target")}, "Odd: expected weights to train, got none that are not frozen"),
        ({"into": torch.mean}, r"the loss of each event, \(32,\), got \(\)"),
        ({"into": lambda loss: loss[:, None]}, r"the loss of each event, \(32,\), got \(32, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    assert run().step == 1
    model = Odd(Space((2,)), 0.9)
    for drawn, error in ((torch.zeros(4, 3), ValueError), (Ragged.of([torch.zeros(2)] * 4), TypeError)):
        model._sample = lambda *given, drawn=drawn: drawn
        with pytest.raises(error, match=r"expected x"):
            training.sample(model, 4)


def test_a_signal_while_samples_are_drawn_draws_them_no_second_time(tmp_path, monkeypatch):
    drawn = []

    def draw(*given, **options):
        drawn.append(given[2].name)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("pyflowk.training.drawing.draw", draw)
    result = trainer("unigrams", tmp_path, replace(CONFIG, sample_every=3)).run()
    assert result.interrupted and result.step == 3 and drawn == ["step-000003"]


def test_contexts_may_be_tokens():
    """They travel in batches, one row for all or one for each sample, and are those of the test rows by themselves."""

    class Lengths(zoo.GenerativeModel):
        def _sample(self, rows, context, generator, chosen):
            return context.lengths[:, None].float()

    rows = [Ragged.of([torch.zeros(n, dtype=torch.int64) for n in lengths]) for lengths in ((1,), (1,), (4, 2, 3))]
    space = Space((1,), context=Context("tokens", 5, length=4))
    data = datasets.Dataset("x", space, *(torch.zeros(len(part), 1) for part in rows), *rows)
    model, context = Lengths(space), contexts(space, data, 7)
    drawn = training.sample(model, 7, context, batch_size=2)
    assert drawn.flatten().tolist() == [4, 2, 3, 4, 2, 3, 4]
    assert training.sample(model, 3, context[:1]).flatten().tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="expected data with up to 4 tokens below 5"):
        contexts(space, None, 7)
    with pytest.raises(ValueError, match="beside the data, as the model is given; x has nothing"):
        check_fit(space, replace(data, space=Space((1,)), train_context=None, valid_context=None, test_context=None))
