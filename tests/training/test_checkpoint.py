import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.cli.runs import data_of
from pyflowk.training import CheckpointError, load_model, log_prob, sample
from pyflowk.training import checkpoint as module
from pyflowk.training.checkpoint import Checkpoint, write


def save(folder, model, step=0):
    weights = {name: model.state_dict() for name in ("model", "ema", "best")}
    write(folder, weights, {"numbers": torch.arange(3)}, {"model": model.config, "data": {}, "train": {}, "step": step})


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    model = zoo.create("nice", (4,), width=8, depth=1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save(tmp_path / "checkpoint", model, step=5)
    return tmp_path, model


@pytest.mark.parametrize("weights", ["best", "ema", "last"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_model_comes_back_bit_for_bit(run, weights, inside):
    folder, model = run
    again, saved = load_model(folder / "checkpoint" if inside else folder, weights)
    x = torch.randn(5, 4)
    assert torch.equal(model.eval().log_prob(x), again.log_prob(x))
    assert saved.meta["step"] == 5 and not again.training
    assert torch.equal(saved.state()["numbers"], torch.arange(3))


def test_writing_again_leaves_one_checkpoint(run):
    folder, model = run
    save(folder / "checkpoint", model, step=6)
    assert Checkpoint.open(folder).meta["step"] == 6
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]


def test_an_interrupted_write_leaves_the_previous_checkpoint(run, monkeypatch):
    folder, model = run

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder / "checkpoint", model, step=6)
    monkeypatch.undo()
    assert Checkpoint.open(folder).meta["step"] == 5
    save(folder / "checkpoint", model, step=7)  # the leftovers are not in the way
    assert Checkpoint.open(folder).meta["step"] == 7


def test_what_is_no_json_is_not_written(run):
    folder, model = run
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(folder / "checkpoint", model, step=float("nan"))
    assert Checkpoint.open(folder).meta["step"] == 5


FULL = {
    "safetensors": ("save_file", SafetensorError("I/O error: No space left on device (os error 28)"), 10**12),
    "torch, which does not say why": ("torch.save", RuntimeError("unexpected pos 576 vs 534"), 10),
    "the operating system": ("_sync", OSError(errno.ENOSPC, "No space left on device"), 10**12),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_is_named_and_the_checkpoint_before_it_stays(run, monkeypatch, kind):
    folder, model = run
    name, error, free = FULL[kind]

    def full(*args):
        raise error

    monkeypatch.setattr(f"pyflowk.training.checkpoint.{name}", full)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    with pytest.raises(
        OSError, match=r"checkpoint takes 0\.0 MB, .* MB are free; the one before it is still"
    ) as caught:
        save(folder / "checkpoint", model, step=6)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(folder / "checkpoint")
    monkeypatch.undo()
    assert Checkpoint.open(folder).meta["step"] == 5 and [path.name for path in folder.iterdir()] == ["checkpoint"]


def test_other_errors_of_a_writer_are_left_as_they_are(run, monkeypatch):
    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(module.torch, "save", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        save(run[0] / "checkpoint", run[1])


def test_a_write_interrupted_between_its_two_renames_is_recovered(run):
    folder, model = run
    (folder / "checkpoint").rename(folder / "checkpoint.previous")
    assert Checkpoint.open(folder).meta["step"] == 5
    assert Checkpoint.open(folder / "checkpoint").meta["step"] == 5
    save(folder / "checkpoint", model, step=6)
    assert Checkpoint.open(folder).meta["step"] == 6


def edit(folder, **changes):
    path = folder / "checkpoint" / "config.json"
    meta = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def truncate(folder):
    path = folder / "checkpoint" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip(folder):
    path = folder / "checkpoint" / "best.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))


def other_shape(folder):
    config = json.loads((folder / "checkpoint" / "config.json").read_text())["model"]
    edit(folder, model={**config, "space": {"shape": [6]}})


DAMAGE = {
    "truncated": (truncate, r"best\.safetensors: expected \d+ bytes, got \d+ \(truncated\?\)"),
    "one bit": (flip, r"best\.safetensors: damaged"),
    "missing file": (lambda f: (f / "checkpoint" / "trainer.pt").unlink(), r"trainer\.pt: missing"),
    "no json": (lambda f: (f / "checkpoint" / "config.json").write_text("{"), r"config\.json: expected JSON"),
    "binary json": (lambda f: (f / "checkpoint" / "config.json").write_bytes(b"\xff\xfe\x00"), "expected JSON"),
    "a list": (lambda f: (f / "checkpoint" / "config.json").write_text("[]"), "not a checkpoint of pyflowk"),
    "no model": (lambda f: edit(f, model=["nice"]), r"expected an object for model, got \['nice'\]"),
    "foreign": (lambda f: edit(f, format="transformers"), "not a checkpoint of pyflowk"),
    "newer": (lambda f: edit(f, version=99), "expected checkpoint version 1, got 99"),
    "incomplete": (lambda f: edit(f, model=None), r"incomplete, model missing"),
    "unknown system": (
        lambda f: edit(f, model={"name": "glove", "shape": [4]}),
        "no system named 'glove'.*imported first",
    ),
    "unknown option": (lambda f: edit(f, model={"name": "nice", "shape": [4], "x": 1}), "cannot build its model"),
    "other shape": (other_shape, "the weights do not fit"),
    "no shape": (lambda f: edit(f, model={"name": "nice", "shape": "x"}), "this is no model: .*positive sizes"),
    "two spaces": (lambda f: edit(f, model={"name": "nice", "space": {"shape": [4]}, "shape": [4]}), "cannot build"),
    "no name": (
        lambda f: edit(f, model={"space": {"shape": [4]}}),
        "expected the name of a system .*, got None: a model",
    ),
    "no space": (lambda f: edit(f, model={"name": "nice", "space": [4, "x"]}), "cannot build its model: .*positive"),
    "a step": (lambda f: edit(f, step="x"), "expected a number of steps, got 'x'"),
    "nothing": (lambda f: shutil.rmtree(f / "checkpoint"), r"expected a run's folder.*no config\.json in it"),
    "no folder": (lambda f: shutil.rmtree(f), "no such folder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_unsound_checkpoints_give_one_clear_line(run, kind):
    damage, message = DAMAGE[kind]
    damage(run[0])
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(run[0])
    assert "\n" not in str(caught.value)


def test_what_commands_ask_of_a_checkpoint_is_there_or_named(run):
    with pytest.raises(ValueError, match="weights: expected one of best, ema, last; got 'first'"):
        load_model(run[0], "first")
    saved = Checkpoint.open(run[0])
    assert (saved.system, saved.space, saved.sampling) == ("nice", saved.build().space, {})
    for key, changes, message in (
        ("system", {"model": {}}, "expected the name of a system of the zoo, got None"),
        ("space", {"model": {"name": "nice", "space": "abc"}}, "its model has no space: .*got 'abc'"),
        ("space", {"model": {"name": "nice"}}, "its model has no space: .*got None"),
        ("sampling", {"sampling": [1]}, "its samples cannot be drawn"),
        ("sampling", {"sampling": {"steps": 3}}, "its samples cannot be drawn: nice has no sampling option steps"),
        ("sampling", {"sampling": {"temperature": "x"}}, "its samples cannot be drawn: temperature: .*got 'x'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            getattr(replace(saved, meta={**saved.meta, **changes}), key)


def test_a_config_that_left_the_architecture_to_the_shape_is_understood(tmp_path):
    """The first configs hold "auto" and None, which meant several scales from 8 x 8 pixels on."""
    model = zoo.create("ffjord", (1, 8, 8), architecture="multiscale", depth=1, width=32, levels=17, steps=2)
    del model.config["space"]
    model.config |= {"shape": [1, 8, 8], "levels": 17, "classes": None, "context_dim": None}
    model.config |= {"architecture": "auto", "width": None, "activation": None, "divergence": "auto"}
    save(tmp_path / "checkpoint", model)
    again, _ = load_model(tmp_path)
    x = torch.randint(0, 17, (3, 1, 8, 8)).float()
    scores = [m.eval().log_prob(x, None, torch.Generator().manual_seed(0)) for m in (model, again)]
    assert torch.equal(*scores) and again.config["architecture"] == "multiscale"
    assert zoo.create("ffjord", (1, 8, 8)).config["architecture"] == "vector"


OLD = Path(__file__).parent / "checkpoints"


@pytest.mark.parametrize("name", sorted(path.stem for path in OLD.glob("*.json")))
def test_checkpoints_of_the_time_before_spaces_load_sample_score_and_go_on(name, tmp_path, capsys):
    """They were written by the commit before, after 4 of 8 steps, and so were the figures beside them."""
    expected = json.loads((OLD / f"{name}.json").read_text())
    shutil.copytree(OLD / name, tmp_path / "checkpoint")
    model, saved = load_model(tmp_path)
    data = data_of(saved)
    assert model.space == (data.space if model.conditional else replace(data.space, context=None))
    x, context = data.take("test", slice(4))
    context = context if model.conditional else None
    torch.testing.assert_close(log_prob(model, x, context), torch.tensor(expected["log_prob"], dtype=torch.float64))
    drawn = sample(model, 3, None if context is None else context[:3], torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.flatten(1)[:, :6], torch.tensor(expected["sample"]), rtol=1e-4, atol=1e-4)
    assert main(["eval", str(tmp_path)]) == 0 and f"{expected['score']:.2f}" in capsys.readouterr().out
    assert main(["train", "--out", str(tmp_path), "--resume", "--threads", "1"]) == 0
    meta = Checkpoint.open(tmp_path).meta
    assert meta["step"] == 8 and meta["best_valid_loss"] == pytest.approx(expected["best_after_8_steps"], rel=1e-4)
    assert "space" in meta["model"] and load_model(tmp_path)[0].space == model.space


def test_a_file_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="got not a folder"):
        load_model(path)
