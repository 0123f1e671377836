"""What a run carries from step to step, and a checkpoint from process to process."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .. import __version__
from ..datasets import Dataset
from ..zoo import GenerativeModel
from . import checkpoint, parts
from .config import TrainConfig
from .ema import MovingAverage


class State:
    """The weights of a model, their optimiser and moving average, the best ones so far, the step and the clock.

    The model is on its device, has its first weights and what it has `prepared`. `advance` takes a step of the
    optimiser, `save` writes a checkpoint and `restore` goes on from one: with the same batches and noise, bit for bit.
    """

    def __init__(
        self, model: GenerativeModel, config: TrainConfig, accelerator: Accelerator, prepared: dict[str, Tensor]
    ) -> None:
        self.model, self.config, self.accelerator, self.prepared = model, config, accelerator, prepared
        self.step, self.elapsed, self.best = 0, 0.0, math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.average = MovingAverage(model, config.ema, model.targets, model.teachers) if config.ema else None
        self.parameters = parts.trained(model)
        groups = _groups(self.parameters, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=_fusable(self.parameters))
        self.net, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def averaged(self) -> GenerativeModel:
        """The moving average of the model, or the model itself when there is none."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def descend(self, loss: Tensor, rate: float) -> Tensor:
        """Gradients of a loss, clipped, for an update at this rate; their norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.backward(loss)
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip or math.inf)
        return norm

    def advance(self) -> None:
        """Take the step: the optimiser's, then the model's own, then the average's."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        with torch.no_grad():
            self.model.after_step(self.step)
        if self.average is not None:
            self.average.update()

    def keep_if_best(self, valid: float) -> None:
        """Remember the averaged weights if no validation loss was below this one."""
        if valid < self.best:
            self.best = valid
            self.best_weights = {k: t.detach().cpu().clone() for k, t in parts.saved(self.averaged).items()}

    def save(self, folder: Path, data: Dataset, sampling: dict[str, Any]) -> None:
        """Write a checkpoint atomically; with it where the data are, and how samples are drawn."""
        model, average = parts.saved(self.model), parts.saved(self.averaged)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.accelerator.device.type == "cuda" else [],
        }
        meta = {
            "pyflowk": __version__,
            "model": self.model.config,
            "data": data.origin or {"name": data.name},
            "content": {"rows": len(data.train) + len(data.valid) + len(data.test), "fingerprint": data.fingerprint},
            "preparation": None if data.preparation is None else data.preparation.as_json(),
            "train": dataclasses.asdict(self.config),
            "sampling": sampling,
            "step": self.step,
            "seconds": self.elapsed,
            "best_valid_loss": self.best if math.isfinite(self.best) else None,
        }
        weights = {"model": model, "ema": average, "best": self.best_weights or average}
        weights |= {"prepared": self.prepared} if self.prepared else {}
        checkpoint.write(folder, weights, state, meta)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint whose "model" weights are in the model already."""
        state = saved.state()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            saved.load_into(self.averaged, "ema")
            self.average.updates = state["average_updates"]
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["cpu_rng"])
        if state["cuda_rng"] and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step, self.elapsed = saved.meta["step"], saved.meta["seconds"]
        if saved.meta["best_valid_loss"] is not None:
            self.best, self.best_weights = saved.meta["best_valid_loss"], saved.weights("best")


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight matrices decay, biases and gains do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _fusable(parameters: list[nn.Parameter]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
