"""Systems of one or a few steps in training: they go on bit for bit, and learn among processes; likelihoods in a few
steps are reported beside the exact ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyflowk import datasets, training, zoo
from pyflowk.nets import FlowMap
from pyflowk.objectives import FlowMapMatching
from pyflowk.solvers import Fixed
from pyflowk.space import Space
from pyflowk.training import Checkpoint, TrainConfig, Trainer
from tests.solvers.gaussian import ExactShares, M, S

CONFIG = TrainConfig(steps=6, batch_size=30, warmup=2, validate_every=3, tensorboard=False, cpu=True, sample_every=0)
SYSTEMS: dict[str, dict[str, Any]] = {
    "mean_flow": {"objective": "soflow", "annealing": 6, "likelihood": True, "cycle": 0.1},
    "consistency": {"warmup": 4, "halving": 2},
    "drifting": {"memory": 50},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_resumed_run_is_bit_for_bit_the_straight_one(name: str, tmp_path: Path) -> None:
    """What they know beside the weights, steps and events that were seen, goes on too."""
    data = datasets.load("moons")

    def run(out: str, until: int | None = None, resume: bool = False) -> Trainer:
        torch.manual_seed(0)
        model = zoo.create(name, data.space.shape, classes=2, width=8, depth=1, **SYSTEMS[name])
        trainer = Trainer(model, data, CONFIG, out=tmp_path / out, resume=resume)
        trainer.run(until=until)
        return trainer

    run("straight")
    run("stopped", until=4)
    run("stopped", resume=True)
    whole, parts = (Checkpoint.open(tmp_path / out).weights("model") for out in ("straight", "stopped"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)


TWO = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from pyflowk import zoo
from tests.training.test_one_step import SYSTEMS
child = os.fork()  # one import for both
rank = int(child > 0)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
x, labels = torch.randn(16, 2) + rank, torch.arange(16) % 2
for name, options in SYSTEMS.items():
    torch.manual_seed(0)
    model = zoo.create(name, (2,), classes=2, width=8, depth=1, **options).train()
    model.initialize(torch.randn(32, 2), torch.arange(32) % 2)
    wrapped = DistributedDataParallel(model)
    for step in range(2):
        for buffer in model.buffers():  # as the wrapper does: all know what the first has seen
            dist.broadcast(buffer, 0)
        seed = lambda: torch.Generator().manual_seed(10 * step + rank)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        alone = torch.autograd.grad(model(x, labels, seed()).mean(), [p for p in model.parameters() if p.requires_grad])
        model.load_state_dict(state)
        model.zero_grad()
        wrapped(x, labels, seed()).mean().backward()
        for own, p in zip(alone, (p for p in model.parameters() if p.requires_grad), strict=True):
            dist.all_reduce(own)
            torch.testing.assert_close(p.grad, own / 2, rtol=1e-4, atol=1e-6)
        assert any(g.abs().max() > 0 for g in alone)
dist.destroy_process_group()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_two_processes_learn_by_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """By the forward of the wrapped module: gradients of tangents that went past it would not be shared."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", TWO, str(tmp_path / "group")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_likelihood_in_a_few_steps_is_reported_beside_the_exact_one() -> None:
    """Of an exact map it is the same up to the solver's steps; of one that says 0.1 too much it is off by that."""

    class Off(ExactShares):
        more = 0.0

        def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return super().forward(*arguments, **options) + torch.tensor([0.0, self.more])

    x = (M + S * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))).float()
    data = datasets.Dataset("line", Space((1,)), x[:100], x[100:200], x[200:])
    net = Off()
    solver: dict[str, Any] = {"method": "rk4", "stepping": Fixed(20), "divergence": "exact"}
    model = zoo.FlowMapModel(
        data.space, FlowMap(net, reversible=True, divergence=True), FlowMapMatching(), solver=solver
    ).eval()
    for net.more in (0.0, 0.1):
        report = training.evaluate(model, data)
        assert report.quick is not None and report.quick.steps == 4
        assert abs(report.quick.excess + net.more) < 1e-3 and abs(report.quick.off - net.more) < 1e-3
    assert any(what == "in 4 steps" for what, _ in report.lines()) and report.as_dict()["quick"]["steps"] == 4
