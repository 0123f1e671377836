"""`pyflowk latent`: a system learns the codes of a trained autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import training
from ..zoo import Autoencoder
from ..zoo.latent import Latent, options_of
from .options import check_options, parse_options, split_inside
from .runs import data_of
from .train import build, check_sampling, default_folder, fit

if TYPE_CHECKING:
    from . import commands


def latent(command: commands.Latent) -> int:
    """Run the command; exit status 130 when a signal ended the training."""
    run = command.run_folder if command.run_folder.name != "checkpoint" else command.run_folder.parent
    out = command.out or default_folder(run.parent, run.name, "latent", resume=False)
    if (out / "checkpoint").exists():
        raise ValueError(
            f"{out} holds a checkpoint already: choose another --out, or go on with pyflowk train --out {out} --resume"
        )
    drawn, words = split_inside(command.sampling)
    if "inside" in drawn:
        raise ValueError("--sampling inside: options of the system inside stand here by their own names")
    check_options(command.system, parse_options(command.set), parse_options([*words.values()], "--sampling"))
    coder, saved = training.load_model(run, command.weights)
    if not isinstance(coder, Autoencoder):
        raise ValueError(f"{run}: expected a run of autoencoder, got one of {coder.name}")
    sampling = {**drawn, "inside": " ".join(words.values()) or None}
    data = data_of(saved)
    options = {"system": command.system, "options": " ".join(command.set) or None, "coder": options_of(coder)}
    model = build("latent", data, options, command.config.seed, conditional=command.conditional)
    assert isinstance(model, Latent)
    model.autoencoder.load_state_dict(coder.state_dict())
    check_sampling(model, sampling)
    return fit(model, data, command.config, out, sampling)
