"""How good a model is: likelihoods in printed units beside the levels to beat, and samples beside data.

Likelihood: `score` makes a `Score` of log-likelihoods, in `bits_per_dim` or `bits_per_symbol` where events are
integers; `trivial_level`, `gaussian_level`, `ngram_level` and `tree_level` are scores to beat; `with_error` prints one.

Samples: `compare(samples, reference, space, generator)` is the one call of an evaluation; it gives a `Measure` with its
error of each metric that fits the space. These are, of numbers: `energy_distance`, `mmd`, the exact `wasserstein`,
`sliced_wasserstein`, `c2st`, `frechet_distance` of features, and `precision_recall`, a `PrecisionRecall` of precision,
recall, density and coverage; of symbols: `ngram_distance`, `column_distance` and `total_variation`. A `Classifier`,
trained on the labels of the data, has features for `compare_features` and answers that say which classes samples are
of; `data_copying` tells whether they repeat the training data, and `energy_score` how well several samples tell one
event. Ways from noise to data have a `straightness`, a `curvature`, a `path_ratio` and a `path_energy`, which
`normalised_path_energy` holds against optimal transport. `posterior_ranks` and their `calibration_error` say whether
posteriors are as wide as they should be.
"""

from .bits import bits_per_dim, bits_per_symbol
from .c2st import c2st
from .calibration import calibration_error, posterior_ranks
from .compare import Measure, compare, compare_features
from .copying import data_copying
from .energy import energy_distance, energy_score
from .features import Classifier
from .frechet import frechet_distance
from .gaussian import gaussian_level
from .levels import Score, score, trivial_level, with_error
from .mmd import mmd
from .ngrams import ngram_level
from .precision_recall import PrecisionRecall, precision_recall
from .sliced import sliced_wasserstein
from .symbols import column_distance, ngram_distance, total_variation
from .trajectories import curvature, normalised_path_energy, path_energy, path_ratio, straightness
from .tree import tree_level
from .wasserstein import wasserstein

__all__ = [
    "Classifier",
    "Measure",
    "PrecisionRecall",
    "Score",
    "bits_per_dim",
    "bits_per_symbol",
    "c2st",
    "calibration_error",
    "column_distance",
    "compare",
    "compare_features",
    "curvature",
    "data_copying",
    "energy_distance",
    "energy_score",
    "frechet_distance",
    "gaussian_level",
    "mmd",
    "ngram_distance",
    "ngram_level",
    "normalised_path_energy",
    "path_energy",
    "path_ratio",
    "posterior_ranks",
    "precision_recall",
    "score",
    "sliced_wasserstein",
    "straightness",
    "total_variation",
    "tree_level",
    "trivial_level",
    "wasserstein",
    "with_error",
]
