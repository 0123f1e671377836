"""Models to be shared: weights, what builds the model again, and a card, in one folder or on the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from .. import __version__, zoo
from ..datasets import Preparation
from ..metrics.levels import unit_of
from ..zoo import GenerativeModel
from . import parts
from .checkpoint import Checkpoint, CheckpointError, Weights, fill, load_model

FILES = ("config.json", "best.safetensors", "README.md")
"""What a shared folder holds, and all that is fetched from the Hub."""
KEPT = ("data", "seconds", "content", "preparation", "train", "sampling", "step", "best_valid_loss", "figures")
"""What of a run goes with its model."""


class Pretrained(ModelHubMixin, library_name="pyflowk", tags=["normalizing-flows", "flow-matching"]):
    """A trained model in the form in which it is shared: config.json, best.safetensors and a card, README.md.

    `model` is in evaluation mode, on the CPU where it was read from a folder; `run` tells how it was trained
    (not for one of a loop of your own); `preparation` leads from the rows of a table to what the model sees and back,
    `sampling` are the options with which its run draws. The folder is a checkpoint without the optimiser's state:
    `training.load_model`, `pyflowk sample` and `pyflowk eval` take it, `--resume` does not. Nothing is pickled, nothing
    but these files is fetched, and no code comes with them; a system of your own has to be imported first.

    `save_pretrained(folder)`, `from_pretrained(folder_or_name)` and `push_to_hub(name)` are huggingface_hub's, with its
    arguments (`revision`, `token`, `private`, ...). Raises ValueError for a model that the zoo has not built, and
    CheckpointError for a folder that is none, or is neither here nor on the Hub.

    >>> import tempfile, torch
    >>> from pyflowk import zoo
    >>> from pyflowk.training import Pretrained
    >>> model = zoo.create("nice", (2,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Pretrained(model).save_pretrained(folder)
    ...     again = Pretrained.from_pretrained(folder).model
    >>> x = torch.randn(3, 2)
    >>> torch.equal(model.eval().log_prob(x), again.log_prob(x))
    True
    """

    def __init__(self, trained: GenerativeModel, run: Mapping[str, Any] | None = None) -> None:
        if not isinstance(trained, GenerativeModel) or trained.config.get("name") not in zoo.names():
            got = trained.name if isinstance(trained, GenerativeModel) else type(trained).__name__
            raise ValueError(f"Pretrained expects a model of the zoo, whose config builds it again; got {got}")
        self.model, self.run = trained.eval(), dict(run or {})

    @classmethod
    def from_run(
        cls, path: str | Path, weights: Weights = "best", figures: Iterable[tuple[str, str]] = ()
    ) -> Pretrained:
        """The model of a run, or of its checkpoint; `figures` are (what, how much) for its card, such as
        `training.evaluate(...).lines()`."""
        model, saved = load_model(path, weights)
        return cls(model, {**_of(saved), "figures": [list(pair) for pair in figures] or saved.meta.get("figures", [])})

    @classmethod
    def from_pretrained(  # type: ignore[override]  # no argument but these
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        weights: Weights = "best",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Pretrained:
        """The model of a shared folder, or of a repository of the Hub by its name."""
        # huggingface_hub's own reads config.json before anybody has looked whether it is one.
        name = str(pretrained_model_name_or_path)
        if Path(name).exists():
            return cls.from_run(name, weights)
        try:
            folder = snapshot_download(
                name, allow_patterns=[*FILES], revision=revision, token=token, cache_dir=cache_dir,
                force_download=force_download, local_files_only=local_files_only,
            )  # fmt: skip
        except HFValidationError as error:
            raise CheckpointError(f"{name}: no such folder, and no name of a repository of the Hub") from error
        except (LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            why = " ".join(str(error).split())
            raise CheckpointError(f"{name}: no such folder, and the Hub did not give it: {why}") from error
        return cls.from_run(folder, weights)

    @property
    def preparation(self) -> Preparation | None:
        """What is done to the rows of a table; None for other data."""
        stored = self.run.get("preparation")
        return None if stored is None else Preparation.from_json(stored)

    @property
    def sampling(self) -> dict[str, Any]:
        """The options with which the run draws samples."""
        return dict(self.run.get("sampling", {}))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card: what the model is, how it was trained, its own figures, and how to draw from it."""
        return ModelCard(self._card())

    def _save_pretrained(self, save_directory: Path) -> None:
        known = {"data": {}, "train": {}, "step": 0, **self.run}
        fill(
            save_directory,
            {"best": parts.saved(self.model)},
            None,
            {"pyflowk": __version__, "model": self.model.config, **known},
        )

    def _card(self) -> str:
        model, run = self.model, self.run
        rows = [("system", f"`{model.name}`: {zoo.describe(model.name)}"), ("events", str(model.space))]
        rows += [("parameters", f"{sum(p.numel() for p in model.parameters()):,}")]
        rows += [("data", f"`{run['data']['name']}`")] if run.get("data", {}).get("name") else []
        if run.get("step"):
            trained = (
                f"{run['step']:,} steps of {run['train']['batch_size']}" if run["train"] else f"{run['step']:,} steps"
            )
            rows += [("trained", f"{trained} in {run.get('seconds', 0.0) / 60:.1f} minutes")]
        if run.get("best_valid_loss") is not None:
            rows += [("best validation loss", self._loss(run["best_valid_loss"]))]
        rows += [(what, words) for what, words in run.get("figures", ())]
        table = "\n".join(f"| {what} | {words} |" for what, words in rows)
        options = "".join(f", {key}={value!r}" for key, value in self.sampling.items())
        given = "" if model.space.context is None else ", context"
        return _CARD.format(name=model.name, table=table, options=options, given=given, context=_context(model))

    def _loss(self, value: float) -> str:
        space = self.model.space
        per = None if space.variable else unit_of(space)  # a mean over rows does not tell how long they were
        if self.model.loss_unit != "nats":
            return f"{value:.4g}"
        bits = "" if per is None else f", {value / space.dims / math.log(2):.3f} bits/{per}"
        return f"{value:.2f} nats{bits}"


def _of(saved: Checkpoint) -> dict[str, Any]:
    """What of a run goes with its model; where its data were on a disk does not."""
    run = {key: saved.meta[key] for key in KEPT if key in saved.meta}
    if saved.preparation is not None:
        run["preparation"] = saved.preparation.as_json()  # that of a damaged file is refused here
    origin = run["data"]
    if origin.get("name"):
        run["data"] = {
            **origin,
            "name": Path(str(origin["name"])).name,
            **({"data_dir": None} if "data_dir" in origin else {}),
        }
    return run


def _context(model: GenerativeModel) -> str:
    return "" if model.space.context is None else f"\n# context: {model.space.context}"


_CARD = """---
library_name: pyflowk
tags:
- normalizing-flows
- flow-matching
- {name}
---

# {name}

| | |
| --- | --- |
{table}

Nats are log-likelihoods an event, those of a table of standardised columns. Made by `pyflowk share`, or
`pyflowk.training.Pretrained`; nothing in this folder is pickled.

```python
from pyflowk.training import Pretrained

shared = Pretrained.from_pretrained("this/repository")  # or a folder{context}
samples = shared.model.sample(16{given}{options})  # of a table: shared.preparation.undo(samples) has its units
```

The folder is a checkpoint, too: `pyflowk sample FOLDER`, `pyflowk eval FOLDER --data FILE`.
"""
