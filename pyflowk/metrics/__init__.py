"""How good a model is: likelihoods in printed units, beside the levels to beat; samples beside data.

Likelihood: `score` makes a `Score` of log-likelihoods, in `bits_per_dim` or `bits_per_symbol` where events are
integers; `trivial_level`, `gaussian_level` and `ngram_level` are scores to beat; `with_error` prints one.
"""

from .bits import bits_per_dim, bits_per_symbol
from .gaussian import gaussian_level
from .levels import Score, score, trivial_level, with_error
from .ngrams import ngram_level

__all__ = [
    "Score",
    "bits_per_dim",
    "bits_per_symbol",
    "gaussian_level",
    "ngram_level",
    "score",
    "trivial_level",
    "with_error",
]
