"""How good a model is: likelihoods in printed units beside the levels to beat, and samples beside data.

Likelihood: `score` makes a `Score` of log-likelihoods, in `bits_per_dim` or `bits_per_symbol` where events are
integers; `trivial_level`, `gaussian_level` and `ngram_level` are scores to beat; `with_error` prints one.

Samples: `compare(samples, reference, space, generator)` is the one call of an evaluation; it gives a `Measure` with its
error of each metric that fits the space. These are, of numbers: `energy_distance`, `mmd`, `sliced_wasserstein`, `c2st`,
`frechet_distance` of features, and `precision_recall`, a `PrecisionRecall` of precision, recall, density and coverage;
of symbols: `ngram_distance` and `total_variation`. `straightness` is that of the ways from noise to data.
"""

from .bits import bits_per_dim, bits_per_symbol
from .c2st import c2st
from .compare import Measure, compare
from .energy import energy_distance
from .frechet import frechet_distance
from .gaussian import gaussian_level
from .levels import Score, score, trivial_level, with_error
from .mmd import mmd
from .ngrams import ngram_level
from .precision_recall import PrecisionRecall, precision_recall
from .sliced import sliced_wasserstein
from .straightness import straightness
from .symbols import ngram_distance, total_variation

__all__ = [
    "Measure",
    "PrecisionRecall",
    "Score",
    "bits_per_dim",
    "bits_per_symbol",
    "c2st",
    "compare",
    "energy_distance",
    "frechet_distance",
    "gaussian_level",
    "mmd",
    "ngram_distance",
    "ngram_level",
    "precision_recall",
    "score",
    "sliced_wasserstein",
    "straightness",
    "total_variation",
    "trivial_level",
    "with_error",
]
