"""The commands and their options; what they do is imported when they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from .._hints import did_you_mean
from ..training.config import TrainConfig

Text = Annotated[str | None, tyro.conf.arg(metavar="STR")]
File = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Number = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Model = Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
Run = Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command has."""

    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        """Do the work and return the exit status."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a system on a data set; without options, RealNVP on the digits for one minute."""

    model: Annotated[Positional[str | None], tyro.conf.arg(metavar="MODEL")] = None
    """A system, realnvp by default; `pyflowk zoo` lists them."""
    data: Text = None
    """A data set (`pyflowk data` lists them), a folder of images or of texts, a .npy, .csv or .parquet file, or a text
    (.txt, .md, .py, ...: `pyflowk data` has all endings); digits by default."""
    data_dir: Text = None
    """Folder of the files of fashion-mnist."""
    data_seed: int = 0
    """Seed of the split into train, validation and test."""
    split: Literal["random", "time"] = "random"
    """Of a table: draw all parts by the seed, or test on its last tenth, as for a time series."""
    size: Number = None
    """Of a folder of pictures: bring the shorter side to this many pixels and cut out the middle square. Of a text: the
    length of the windows that it is cut into, 128 symbols by default, or of the longest of its --lines, 80."""
    lines: bool = False
    """Of a text: every line is a row of its own length, as edit_flow learns them."""
    tokenizer: File = None
    """Of a text: a tokenizer.json of Hugging Face's tokenizers, whose tokens are the symbols; the run keeps it."""
    bins: Number = None
    """Of a table: take rows for symbols, texts as they are and numbers cut into so many bins; 32 for systems of symbols
    alone, such as discrete_flow, and else not."""
    set: tuple[str, ...] = ()
    """Options of the system, such as `width=256 couplings=8`; `pyflowk zoo MODEL` lists them."""
    conditional: bool = False
    """Condition the system on the labels of the data."""
    given: tuple[str, ...] = ()
    """Condition the system on these columns of a table, by name or counted from 0, and model the others:
    `--data galaxies --given u g r i z y` is the redshift given the magnitudes."""
    sampling: tuple[str, ...] = ()
    """Options of the samples that are drawn and judged, such as `temperature=0.7`; `pyflowk zoo MODEL` lists them."""
    out: File = None
    """The run's folder, which receives log.csv, checkpoint/, samples/, samples.png, loss.png and result.json; by
    default the first free runs/MODEL-DATA."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """Begin with the weights and the network of another run, of flow_matching for a mean_flow, and with its data unless
    others are named."""
    resume: bool = False
    """Go on from the checkpoint in the run's folder, which Ctrl-C leaves too, with its system, data and settings; only
    the budget and the numbers of threads and workers may be changed."""
    typed: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Names of the options on the command line."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def run(self) -> int:
        from .train import train

        return train(self)


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw samples from a trained model, or walk through its latent space."""

    run_folder: Run
    """A run's folder or its checkpoint folder."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    out: File = None
    """A .png picture (grid of images, scatter or histograms), an .npy array, for rows of numbers a .csv table, or for
    symbols a .txt of one row or one text a line, in the units of the data; RUN/samples.png or .txt by default."""
    label: Number = None
    """Class to draw from a conditional model, or to take events from; all in turn by default."""
    given: tuple[str, ...] = ()
    """Values of the columns that the model was trained with as --given, in the table's units: `temp=21.5 humidity=40`;
    by default those of the rows of the test set in turn."""
    sampling: tuple[str, ...] = ()
    """Options of the samples, such as `temperature=0.7`, below 1 for likelier, less varied ones; `pyflowk zoo MODEL`
    lists them; those of the run by default."""
    prefix: Text = None
    """What each text begins with, of a model of text; that of the run's samples by default."""
    interpolate: bool = False
    """Walk between the latents of pairs of test events, 8 points a walk, instead of drawing."""
    attribute: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="FROM TO")] = None
    """Move test events of class FROM along the difference of the mean latents of classes TO and FROM, 8 points a walk,
    the last one gone all the way; for models without --conditional or --given."""
    weights: Literal["best", "ema", "last"] = "best"
    """Weights with the best validation loss, their moving average at the end, or the last ones."""
    seed: int = 0
    """Seed of the noise."""
    threads: Number = None
    """Threads on the CPU; by default the batches are timed with 1, 2, 4, ... of them, unless OMP_NUM_THREADS says how
    many."""
    trajectory: bool = False
    """Of a model whose samples move in the plane, as a continuous flow's do: write trajectory.gif and its frames from
    noise to data, with density and velocity where it knows them."""

    def run(self) -> int:
        from .sample import sample

        return sample(self)


@dataclass(frozen=True, kw_only=True)
class Eval(Command):
    """Judge a trained model by the test set: nats and bits/dim with standard errors where it has a likelihood, how near
    its samples come, and its round-trip error. Of samples: two distances; c2st, how often a classifier tells them from
    data (0.5 is chance); precision, the share of them that looks like data; coverage, that of data they come near; data
    copying, how often they are nearer to the training data than test rows are (0.5 is chance); of data with labels also
    distances in the features of a classifier that learns these, and whether classes come as often, and as asked; of
    ways from noise to data, how straight they are (0) and how long beside their chords (1)."""

    run_folder: Run
    """A run's folder or its checkpoint folder."""
    draws: int = 1
    """Dequantisation draws to average for integer data."""
    sampling: tuple[str, ...] = ()
    """Options of the samples that are compared with the test set; those of the run by default."""
    data: Text = None
    """Other data than those the model was trained on, such as a table of the same columns: all its rows are scored, by
    the means and standard deviations of the run."""
    data_dir: Text = None
    """Folder of the files of fashion-mnist, if it has moved."""
    size: Number = None
    """Size of the pictures of another folder; that of the run by default."""
    weights: Literal["best", "ema", "last"] = "best"
    """Weights with the best validation loss, their moving average at the end, or the last ones."""
    seed: int = 0
    """Seed of the noise."""
    threads: Number = None
    """Threads on the CPU; by default the batches are timed with 1, 2, 4, ... of them, unless OMP_NUM_THREADS says how
    many."""

    def run(self) -> int:
        from .evaluate import evaluate

        return evaluate(self)


@dataclass(frozen=True, kw_only=True)
class Reflow(Command):
    """Straighten the trajectories of a trained flow: draw pairs of noise and the sample that it becomes, and train the
    same network again on these pairs, from the weights that it has. Fewer steps then do for a sample."""

    run_folder: Run
    """A run's folder or its checkpoint folder, of a system that learns by matching."""
    pairs: int = 20_000
    """How many pairs are made; one in ten is for validation."""
    rounds: int = 1
    """How often: each round starts from the one before, in a folder of its own."""
    distill: bool = False
    """Learn one Euler step from noise to sample and nothing else; of a rectified_flow."""
    out: File = None
    """The folder of the first round, which receives pairs/ and what a run receives; those that follow end in -2, -3,
    ...; by default the first free RUN-reflow."""
    sampling: tuple[str, ...] = ()
    """Options of the samples that make the pairs, such as `steps=50`; those of the run by default."""
    weights: Literal["best", "ema", "last"] = "best"
    """Weights with the best validation loss, their moving average at the end, or the last ones."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def run(self) -> int:
        from .reflow import reflow

        return reflow(self)


@dataclass(frozen=True, kw_only=True)
class Latent(Command):
    """Train a system on the codes of a trained autoencoder, which stays as it is. Its likelihood is a bound, no better
    than the autoencoder's codes are."""

    run_folder: Run
    """A run's folder or its checkpoint folder, of an autoencoder."""
    system: str = "tarflow"
    """The system that learns the codes; `pyflowk zoo` lists them."""
    set: tuple[str, ...] = ()
    """Its options, such as `width=128`; `pyflowk zoo MODEL` lists them."""
    conditional: bool = False
    """Condition it on the labels of the data."""
    out: File = None
    """The run's folder, as of `pyflowk train`; by default the first free RUN-latent."""
    sampling: tuple[str, ...] = ()
    """Options of its samples, such as `temperature=0.7`, and `spread`, how far events are drawn around what the decoder
    makes of codes."""
    weights: Literal["best", "ema", "last"] = "best"
    """Weights of the autoencoder: those with the best validation loss, their moving average at the end, or the last."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def run(self) -> int:
        from .inside import latent

        return latent(self)


@dataclass(frozen=True, kw_only=True)
class Share(Command):
    """Write the model of a run as it is shared: config.json, best.safetensors and a card with its own figures."""

    run_folder: Run
    """A run's folder or its checkpoint folder."""
    out: File = None
    """A folder for them, by default RUN/shared; sample and eval take it as a run."""
    push: Text = None
    """NAME/MODEL on the Hugging Face Hub, to which they go, too; `hf auth login` comes first."""
    private: bool = False
    """Make a new repository there private."""
    weights: Literal["best", "ema", "last"] = "best"
    """Weights with the best validation loss, their moving average at the end, or the last ones."""

    def run(self) -> int:
        from .share import share

        return share(self)


@dataclass(frozen=True, kw_only=True)
class Zoo(Command):
    """List the systems, or the options of one."""

    model: Model = ""
    """A system whose options to list."""

    def run(self) -> int:
        from .lists import zoo

        return zoo(self)


@dataclass(frozen=True, kw_only=True)
class Data(Command):
    """List the data sets."""

    def run(self) -> int:
        from .lists import data

        return data()


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """Tell version, instruction set, threads, devices, and what each op runs on."""

    def run(self) -> int:
        from .lists import info

        return info()


@dataclass(frozen=True, kw_only=True)
class Selfcheck(Command):
    """Check every op on every back end of this machine against its float64 formula, and measure its speed."""

    megabytes: float = 16.0
    """Size of the tensors whose speed is measured; larger ones than about 30 MB are mapped afresh by malloc at each
    call, which then costs more than the op."""

    def run(self) -> int:
        from .selfcheck import selfcheck

        return selfcheck(self)


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """Run the ops' own tests, then the benchmarks; needs a source checkout."""

    only: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Benchmarks whose name contains this."""

    def run(self) -> int:
        from .bench import bench

        return bench(self)


COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "sample": Sample,
    "eval": Eval,
    "reflow": Reflow,
    "latent": Latent,
    "share": Share,
    "zoo": Zoo,
    "data": Data,
    "info": Info,
    "selfcheck": Selfcheck,
    "bench": Bench,
}


def _require_options(argv: Sequence[str]) -> None:
    """Raise ValueError for an option that the command does not have: it may be one of the system or of its samples."""
    if not argv or argv[0] not in COMMANDS:
        return
    kind = COMMANDS[argv[0]]
    fields = [*dataclasses.fields(kind), *(dataclasses.fields(TrainConfig) if kind in (Train, Reflow, Latent) else ())]  # type: ignore[arg-type]
    known = [field.name.rstrip("_").replace("_", "-") for field in fields]
    for word in argv[1:]:
        name = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name.startswith(("tyro-", "help")) or name.removeprefix("no-") in known:
            continue
        other = "what a system takes is --set KEY=VALUE, what its samples take --sampling KEY=VALUE (pyflowk zoo MODEL)"
        raise ValueError(
            f"{argv[0]} has no option --{name}{did_you_mean(name, known)}: --help lists those that it has"
            + (f"; {other}" if "sampling" in known else "")
        )


def parse(argv: Sequence[str]) -> Command:
    """The command meant by `argv`; prints help, or one error and exits, where there is none.

    Raises ValueError for an unknown command or option, and for values that do not fit.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS)
        raise ValueError(f"no command named {argv[0]!r}{hint}; there are {', '.join(COMMANDS)}")
    _require_options(argv)
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="pyflowk",
        description="Normalizing flows on compiled kernels: train, sample, evaluate. --version tells the version.",
        args=list(argv),
        config=(OmitArgPrefixes, FlagCreatePairsOff),
    )
    if not isinstance(command, Train):
        return command
    typed = [word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")]
    return dataclasses.replace(command, typed=tuple(typed))
