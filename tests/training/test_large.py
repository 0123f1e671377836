"""Data that do not fit in memory train, resume and are judged as those that do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pyflowk import datasets, training, zoo
from pyflowk.training import Checkpoint, TrainConfig, Trainer

LIMITED = """
import re, resource, sys
from pathlib import Path
from pyflowk.cli import main

options = "--steps 20 --set width=8 couplings=2 --cpu --no-tensorboard --threads 1".split()
assert main(["train", "nice", "--data", "small.npy", "--out", "small", *options]) == 0  # all that is imported is so now
used = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
limit = 1024 * used + 80 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np = sys.modules["numpy"]
    np.array(np.load("big.npy", mmap_mode="r"))
except MemoryError:
    sys.exit(main(["train", "nice", "--data", "big.npy", "--out", "big", *options]))
raise SystemExit("the limit does not hold")
"""
"""A run in a process that may have 80 MB more than a run on small data has taken."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process and how much it has are those of Linux")
def test_a_table_ten_times_the_memory_allowed_trains(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4000, 64))
    np.save(tmp_path / "small.npy", rows)
    big = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", "float64", (800 * 2**20 // 512, 64))
    big[: len(rows)] = rows  # the rest is a hole: zeros that take no place on the disk
    big.flush()
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, env=one, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "(1310720 / 163840 / 163840 samples of 64)" in run.stdout and (tmp_path / "big/result.json").exists()


CONFIG = TrainConfig(steps=6, batch_size=8, validate_every=3, cpu=True, tensorboard=False, threads=1, workers=0)


def weights(path, out, config=CONFIG, until=None, resume=False, **options):
    data = datasets.load(str(path), **options)
    space = replace(data.space, context=None)
    model = zoo.create("nice", space, width=8, couplings=2)
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.uniform_(p, -0.1, 0.1)
    run = Trainer(model, data, config, out=out, console=Console(quiet=True), resume=resume)
    run.run(until)
    return Checkpoint.open(out).weights("model"), run


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_pictures_decoded_by_workers_train_to_the_same_weights(tmp_path):
    """In memory, in this process, by two processes, and by a run that was stopped: bit for bit."""
    random = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "p" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (5, 6)).astype("uint8")).save(path)
    near, _ = weights(tmp_path / "p", tmp_path / "near", size=4)
    far, _ = weights(tmp_path / "p", tmp_path / "far", size=4, memory=0)
    working = replace(CONFIG, workers=2)
    ahead, run = weights(tmp_path / "p", tmp_path / "ahead", working, size=4, memory=0)
    assert run.feed.workers == 2 and same(near, far) and same(near, ahead)
    weights(tmp_path / "p", tmp_path / "again", CONFIG, 4, size=4)  # in memory, as an older run
    again, _ = weights(tmp_path / "p", tmp_path / "again", working, resume=True, size=4, memory=0)
    assert same(near, again)
    report = training.evaluate(run.averaged, run.data)
    assert report.as_dict() == training.evaluate(run.averaged, datasets.load(str(tmp_path / "p"), size=4)).as_dict()


def test_a_table_on_demand_goes_on_where_one_in_memory_stood(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(400, 3)))
    near, _ = weights(tmp_path / "x.npy", tmp_path / "near")
    weights(tmp_path / "x.npy", tmp_path / "far", until=2)
    stored = Checkpoint.open(tmp_path / "far").preparation
    far, run = weights(tmp_path / "x.npy", tmp_path / "far", resume=True, memory=0, preparation=stored)
    assert run.data.on_demand and same(near, far)
    other = datasets.load(str(tmp_path / "x.npy"), memory=0, seed=1)
    assert "mean" in Checkpoint.open(tmp_path / "far").changes(other)  # another split has another training part
