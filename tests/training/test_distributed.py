"""Several processes on the CPU with gloo, started by torchrun as a user would."""

import os
import subprocess
import sys

import pytest
import torch

from pyflowk.training import Checkpoint
from pyflowk.training.log import read_rows

ARGUMENTS = ("train", "realnvp", "--data", "moons", "--steps", "15", "--batch-size", "64", "--set", "couplings=3")
ARGUMENTS += ("width=16", "--log-every", "5", "--validate-every", "5", "--no-tensorboard", "--warmup", "2")
if torch.accelerator.is_available():  # elsewhere the processes are to find each other without being told
    ARGUMENTS += ("--cpu",)


def launch(processes, out, *extra):
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["pyflowk", *ARGUMENTS, "--out", str(out), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_two_processes_train_to_the_same_loss_as_one_and_resume(tmp_path):
    """One test, not four: starting the processes is what costs."""
    folders = [tmp_path / str(processes) for processes in (1, 2)]
    for processes, out in enumerate(folders, start=1):
        done = launch(processes, out)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("one full Gaussian") == 1  # only one of them speaks

    one, two = (read_rows(out / "log.csv") for out in folders)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [5, 10, 15]
    for a, b in zip(one, two):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-4)
    assert one[-1]["loss"] < one[0]["loss"]

    first, second = (Checkpoint.open(out).weights("model") for out in folders)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name].float(), second[name].float(), atol=1e-3), name
    assert {path.name for path in folders[0].iterdir()} == {path.name for path in folders[1].iterdir()}

    done = launch(2, folders[1], "--resume", "--steps", "20")
    assert done.returncode == 0, done.stderr
    assert Checkpoint.open(folders[1]).meta["step"] == 20


def test_a_stack_of_transformers_shares_its_work_in_every_way_to_the_losses_of_one_process(tmp_path):
    """Averaged gradients, in the memory of one block, too, and weights that lie apart with layers computed again."""
    command = [sys.executable, "-m", "tests.training.two_processes", str(tmp_path / "store")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split(": ") for line in done.stdout.splitlines())
    assert found.keys() == {"ddp", "ddp-flat", "fsdp", "one"}
    losses = {name: [float(number) for number in numbers.split()] for name, numbers in found.items()}
    assert losses["one"][0] > losses["one"][1] > losses["one"][2]
    for ways in losses.values():
        assert ways == pytest.approx(losses["one"], rel=2e-5)
