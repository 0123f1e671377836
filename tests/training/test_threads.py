"""The number of threads: what is chosen on simulated machines, who is obeyed, and that nothing else depends on it."""

import math
from collections.abc import Callable

import pytest
import torch

from pyflowk import datasets, training, zoo
from pyflowk.cli import main
from pyflowk.training import Checkpoint, Threads, TrainConfig, Trainer
from pyflowk.training import threads as module
from pyflowk.training.threads import Choice

STEP = 0.02
Machine = Callable[[float, int], float]


def quiet(now: float, count: int) -> float:
    return STEP / count**0.8


def shared(now: float, count: int) -> float:
    """A busy loop on every core: half of it for one thread, and several threads wait for each other."""
    return 2 * STEP if count == 1 else 250 * STEP


def small(now: float, count: int) -> float:
    """Steps that many threads only slow down, a little."""
    return STEP * (1 + 0.1 * (count - 1))


def between(start: float, end: float) -> Machine:
    return lambda now, count: (shared if start < now < end else quiet)(now, count)


class Clock:
    """A run on a simulated machine: its time, its steps, and when the choice changed. A step that passes its limit goes
    on with one thread, as the guard sees to."""

    def __init__(self, machine: Machine, most: int, seconds: float) -> None:
        choice, self.now, self.steps, self.worst = Choice(most), 0.0, 0, 0.0
        self.changes: list[tuple[float, int]] = []
        while self.now < seconds:
            spent = machine(self.now, choice.count)
            if spent > choice.limit:
                spent = choice.limit + machine(self.now, 1)
            choice.took(spent)
            self.now, self.steps, self.worst = self.now + spent, self.steps + 1, max(self.worst, spent)
            if not choice.looking and (not self.changes or choice.best != self.changes[-1][1]):
                self.changes.append((self.now, choice.best))
        self.choice = choice


@pytest.mark.parametrize("machine, most, best", [(quiet, 1, 1), (quiet, 2, 2), (quiet, 6, 6), (quiet, 64, 64),
                                                 (small, 8, 1), (shared, 2, 1), (shared, 64, 1)])  # fmt: skip
def test_the_fastest_number_is_found_at_once_and_kept(machine, most, best):
    run = Clock(machine, most, 100.0)
    assert [count for _, count in run.changes] == [best]
    assert run.changes[0][0] < 2.0
    assert run.steps > 0.95 * 100.0 / machine(0.0, best)  # looking costs little
    assert run.worst <= 2 * STEP * 3 + 0.3 + 2 * STEP  # a hopeless number is given up in the middle of its first step


def test_numbers_between_and_beyond_powers_of_two():
    assert Choice(6).rungs == [1, 2, 4, 6] and Choice(8).rungs == [1, 2, 4, 8] and Choice(1).rungs == [1]
    peak = Clock(lambda now, count: STEP / min(count, 4) * (1 + 0.5 * max(0, count - 4)), 64, 20.0)
    assert [count for _, count in peak.changes] == [4]


@pytest.mark.parametrize("most", [2, 16])
def test_a_collapse_is_noticed_at_once_and_its_end_soon(most):
    run = Clock(between(40.0, 60.0), most, 120.0)
    counts, times = [count for _, count in run.changes], [now for now, _ in run.changes]
    assert counts == [most, 1, most]
    assert times[1] < 42.0 and times[2] < 60.0 + module.LONGEST_WAIT + 2.0


def test_moderate_slowness_is_noticed_too():
    run = Clock(lambda now, count: STEP if count == 1 else STEP * (0.6 if now < 20.0 else 1.5), 2, 40.0)
    assert [count for _, count in run.changes] == [2, 1] and run.changes[1][0] < 30.0


@pytest.mark.parametrize("period", [0.1, 1.0, 7.0])
def test_a_load_that_comes_and_goes_does_not_make_it_flap(period):
    run = Clock(lambda now, count: (shared if int(now / period) % 2 else quiet)(now, count), 2, 300.0)
    assert len(run.changes) <= 2 + 300.0 / module.LONGEST_WAIT
    one = 300.0 / (1.5 * STEP)  # steps of one thread in that time
    assert run.steps > 0.9 * one


def test_one_slow_step_changes_nothing():
    run = Clock(lambda now, count: 1.0 if 20.0 < now < 20.5 else quiet(now, count), 4, 40.0)
    assert [count for _, count in run.changes] == [4]


@pytest.fixture
def unspoken(monkeypatch):
    """Nobody has said anything, and torch has two threads."""
    for name in module.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(module, "_DEFAULT", 2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("unspoken")
def test_torch_has_the_number_that_was_chosen_and_gets_its_own_back():
    """A clock that runs fast with one thread, and one that stops the second in the middle of a step."""
    for slow, best in [(1, 2), (2, 1)]:
        now, seen, lines = [0.0], [], []
        layer = torch.nn.Linear(1, 1)
        with Threads(say=lines.append, clock=lambda now=now: now[0]) as threads:
            for _ in range(30):
                with threads.step():
                    seen.append(torch.get_num_threads())
                    now[0] += 5.0 if seen[-1] == slow else 0.1
                    layer(torch.zeros(1))
                    assert torch.get_num_threads() == (1 if slow == 2 else seen[-1])
            assert torch.get_num_threads() == best == threads.choice.best
        assert torch.get_num_threads() == 2 and set(seen) == {1, 2}
        assert len(lines) == 1 and lines[0].startswith(f"threads: {best} of 2, measured (1: ")
    assert lines[0].endswith("2: too slow)")


@pytest.mark.usefixtures("unspoken")
def test_the_user_is_obeyed(monkeypatch):
    def used(*args):
        before, used = torch.get_num_threads(), set()
        with Threads(*args) as threads:
            for _ in range(5):
                with threads.step():
                    used.add(torch.get_num_threads())
        assert torch.get_num_threads() == before
        return (threads.choice is None, *used)

    assert used() == (False, 1)  # the first look begins with one
    assert used(3) == (True, 3)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
        assert used() == (True, 2)
        monkeypatch.delenv(name)
    torch.set_num_threads(3)
    assert used() == (True, 3)
    torch.set_num_threads(2)

    with Threads() as threads:  # said in the middle
        for _ in range(3):
            with threads.step():
                torch.set_num_threads(3)
    assert torch.get_num_threads() == 3 and threads.choice is None


@pytest.mark.usefixtures("unspoken")
def test_a_loop_in_a_loop_leaves_everything_as_it_was():
    """A set that is scored in a loop of one's own, by the same number of threads; and one that stops with an error."""
    hooks, before = torch.nn.modules.module._global_forward_pre_hooks, torch.get_num_threads()
    threads, model = Threads(), zoo.create("maf", (2,), blocks=1, width=8)
    for _ in range(2):
        with pytest.raises(KeyError), threads:
            for _ in range(3):
                with threads.step():
                    training.sample(model, 4, threads=threads)
            assert len(hooks) == 1
            with threads.step():
                raise KeyError("stop")
        assert not hooks and torch.get_num_threads() == before


def test_wrong_numbers_are_refused():
    for build in (Threads, lambda number: TrainConfig(threads=number)):
        with pytest.raises(ValueError, match="threads: expected an integer from 1 to 65536, got 0"):
            build(0)


@pytest.mark.usefixtures("unspoken")
def test_no_bit_of_a_run_depends_on_the_choice(tmp_path, monkeypatch):
    """Forced through every number, step by step, beside one thread; a network of vectors, whose products of this size
    torch rounds alike with one thread and two, unlike gradients of its convolutions."""
    data = datasets.load("digits")
    options = {"couplings": 2, "width": 64, "architecture": "vector"}

    def train(out, number):
        torch.manual_seed(0)
        model = zoo.create("realnvp", data.space.shape, levels=data.space.levels, **options)
        config = TrainConfig(steps=2, batch_size=512, validate_every=2, tensorboard=False, cpu=True, threads=number)
        Trainer(model, data, config, out=out).run()
        saved = Checkpoint.open(out)
        return {f"{part} {k}": t for part in ("model", "ema", "best") for k, t in saved.weights(part).items()}

    turns = []

    class Alternating(Choice):
        def took(self, seconds):
            self._trying = None
            self.best = 3 - self.best
            self.figures = {1: 1.0, 2: 1.0}
            turns.append(self.best)

    expected = train(tmp_path / "one", 1)
    monkeypatch.setattr(module, "Choice", Alternating)
    got = train(tmp_path / "both", None)
    assert set(turns) == {1, 2}
    assert got.keys() == expected.keys() and all(torch.equal(got[key], expected[key]) for key in got)


@pytest.mark.usefixtures("unspoken")
def test_batches_that_are_scored_and_drawn_choose_too():
    model, lines = zoo.create("nice", (2,), width=8), []
    threads = Threads(say=lines.append, clock=iter(map(float, range(10_000))).__next__)
    whole = training.sample(model, 100, generator=torch.Generator().manual_seed(0), batch_size=10, threads=threads)
    assert len(lines) == 1 and lines[0].startswith("threads: 1 of 2, measured")  # every step takes as long
    again = training.sample(model, 100, generator=torch.Generator().manual_seed(0), batch_size=10)
    assert whole.shape == (100, 2) and torch.equal(whole, again)
    direct = model.sample(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(training.sample(model, 100, generator=torch.Generator().manual_seed(0)), direct)
    score = training.log_prob(model, whole, batch_size=10, threads=threads)
    assert torch.equal(score, training.log_prob(model, whole, batch_size=10)) and score.isfinite().all()
    assert math.isclose(float(score.mean()), float(training.log_prob(model, whole).mean()), rel_tol=1e-5)


@pytest.mark.usefixtures("unspoken")
def test_the_command_says_in_one_line_what_it_has_chosen(tmp_path, capsys):
    options = ["--out", str(tmp_path / "run"), "--set", "width=8", "--no-tensorboard", "--cpu"]
    assert main(["train", "nice", "--data", "moons", "--minutes", "0.03", *options]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("threads: ")]
    assert said and all(" of 2, measured (1: " in line for line in said)
    assert main(["sample", str(tmp_path / "run"), "--threads", "0"]) == 2
    assert "threads: expected an integer from 1 to 65536, got 0" in capsys.readouterr().err
