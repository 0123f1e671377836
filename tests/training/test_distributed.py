"""Several processes on the CPU with gloo, started by torchrun as a user would."""

import os
import subprocess
import sys

import pytest
import torch

from pyflowk.training import Checkpoint
from pyflowk.training.log import read_rows

ARGUMENTS = ("train", "realnvp", "--data", "moons", "--steps", "15", "--batch-size", "64", "--set", "couplings=3")
ARGUMENTS += ("width=16", "--log-every", "5", "--validate-every", "5", "--no-tensorboard", "--cpu", "--warmup", "2")


def launch(processes, out, *extra):
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["pyflowk.cli", *ARGUMENTS, "--out", str(out), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        done = launch(processes, folder / str(processes))
        assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_train_to_the_same_loss_as_one(runs):
    one, two = (read_rows(runs / str(processes) / "log.csv") for processes in (1, 2))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [5, 10, 15]
    for a, b in zip(one, two):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-4)
    assert one[-1]["loss"] < one[0]["loss"]


def test_their_weights_agree(runs):
    one, two = (Checkpoint.open(runs / str(processes)).weights("model") for processes in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), atol=1e-3), name


def test_two_processes_write_one_set_of_files(runs):
    assert {path.name for path in (runs / "1").iterdir()} == {path.name for path in (runs / "2").iterdir()}


def test_two_processes_resume(runs, tmp_path):
    done = launch(2, runs / "2", "--resume", "--steps", "20")
    assert done.returncode == 0, done.stderr
    assert Checkpoint.open(runs / "2").meta["step"] == 20
