"""The objectives that have a name, each a :class:`Matching`: which noise goes with which event, and on which path."""

from __future__ import annotations

from ..distributions import Distribution
from ..paths import (
    AffinePath,
    Blurred,
    BrownianBridge,
    CondOT,
    Cosine,
    ErrorWeight,
    Lipman,
    LogitNormalTimes,
    OptimalTransport,
    Pairing,
    Path,
    Schedule,
    Sinkhorn,
    UniformTimes,
)
from .matching import Matching, standard_normal

__all__ = ["data_matching", "i_cfm", "ot_cfm", "rectified_flow", "sb_cfm", "target_fm", "vp_cfm"]


def target_fm(sigma_min: float = 1e-4, source: Distribution | None = None) -> Matching:
    r"""Flow matching as first published: :math:`x_t = t x_1 + (1 - (1 - \sigma_{\min}) t)\, x_0`.

    Normal noise comes to each event by chance. The path of each is a straight line, which is called an optimal
    transport path there; the pairs are none. Raises ValueError for a source other than standard normal noise, for which
    the method is not defined: :func:`i_cfm` takes any. Lipman et al., 2023, arXiv:2210.02747.

    >>> from pyflowk.objectives import target_fm
    >>> target_fm().path
    AffinePath(Lipman(sigma_min=0.0001))
    """
    if not standard_normal(source):
        raise ValueError(f"target_fm expects standard normal noise as its source, got {source!r}; i_cfm takes any")
    return Matching(AffinePath(Lipman(sigma_min)), source=source)


def i_cfm(sigma: float = 0.0, source: Distribution | None = None) -> Matching:
    r"""Conditional flow matching: noise of any ``source`` by chance, straight lines blurred by ``sigma``.

    Tong et al., 2024, arXiv:2302.00482; without a blur: Liu et al., 2023, arXiv:2209.03003; Albergo, Vanden-Eijnden,
    2023, arXiv:2209.15571.

    >>> from pyflowk.objectives import i_cfm
    >>> i_cfm(0.1).path
    Blurred(path=AffinePath(CondOT()), sigma=0.1)
    """
    return Matching(_blurred(AffinePath(), sigma), source=source)


def rectified_flow(source: Distribution | None = None) -> Matching:
    """Straight lines from noise by chance, without a blur, and at every time: :func:`i_cfm` with sigma 0.

    Its pairs may then be those that it makes itself, :class:`pyflowk.paths.Given`. Liu et al., 2023, arXiv:2209.03003.

    >>> from pyflowk.objectives import rectified_flow
    >>> rectified_flow().path
    AffinePath(CondOT())
    """
    return i_cfm(source=source)


def ot_cfm(sigma: float = 0.0, pairing: Pairing | None = None, source: Distribution | None = None) -> Matching:
    r"""OT-CFM: the pairs of the optimal transport plan of each batch, straight lines blurred by ``sigma``.

    ``pairing`` is :class:`pyflowk.paths.OptimalTransport`, exact and with regard to contexts, if none is given. The
    larger the batch, the straighter the velocity. Tong et al., 2024, arXiv:2302.00482; Pooladian et al., 2023,
    arXiv:2304.14772.

    >>> from pyflowk.objectives import ot_cfm
    >>> ot_cfm().pairing.condition
    'auto'
    """
    pairing = OptimalTransport() if pairing is None else pairing
    return Matching(_blurred(AffinePath(), sigma), pairing=pairing, source=source)


def sb_cfm(sigma: float = 1.0, pairing: Pairing | None = None, source: Distribution | None = None) -> Matching:
    r"""SB-CFM: the pairs of the entropic plan of each batch, regularised by :math:`2 \sigma^2`, and Brownian bridges.

    That is what ``pairing`` is, if none is given: :class:`pyflowk.paths.Sinkhorn`. With other pairs, exact ones too,
    the velocity still leads to the data, but the process is not the Schroedinger bridge. Times are from 0.001 to 0.999,
    where the loss is bounded. :class:`pyflowk.objectives.SF2M` learns the score too. Raises ValueError unless
    sigma > 0. Tong et al., 2024, arXiv:2302.00482.

    >>> from pyflowk.objectives import sb_cfm
    >>> sb_cfm(sigma=0.5).pairing.reg
    0.5
    """
    path = BrownianBridge(sigma)
    pairing = Sinkhorn(2 * sigma**2) if pairing is None else pairing
    return Matching(path, pairing=pairing, times=UniformTimes(least=path.least, most=1 - path.least), source=source)


def vp_cfm(sigma: float = 0.0, source: Distribution | None = None) -> Matching:
    r"""VP-CFM: noise by chance, a quarter of a circle, blurred by ``sigma``: the variance stays where it is 1.

    Albergo, Vanden-Eijnden, 2023, arXiv:2209.15571; Tong et al., 2024, arXiv:2302.00482.

    >>> from pyflowk.objectives import vp_cfm
    >>> vp_cfm().path
    AffinePath(Cosine())
    """
    return Matching(_blurred(AffinePath(Cosine()), sigma), source=source)


def data_matching(schedule: Schedule | None = None, clip: float = 0.05) -> Matching:
    r"""Data predicted, velocity counted: the loss is that of the velocity that the network's x1 means.

    On straight lines :math:`|\hat x - x_1|^2 / \max(1 - t, \text{clip})^2`, on those of another ``schedule``
    :math:`D^2 / \max(\sigma_t, \text{clip})^2` of that distance: one clip for prediction and target, and the one to
    give :class:`pyflowk.nets.VelocityField` as its ``least``. Times are logit-normal, (-0.8, 0.8). It serves samples of
    large events, whose noise a network then need not carry through. Its densities are poor: for those let the network
    be :class:`pyflowk.nets.Preconditioned`, with a :class:`pyflowk.paths.UnitWeight`. Raises ValueError for a clip
    below 0. Li, He, 2025, arXiv:2511.13720.

    >>> import torch
    >>> from pyflowk.objectives import data_matching
    >>> data_matching().weight(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  1.0000,   4.0000, 400.0000])
    """
    schedule = CondOT() if schedule is None else schedule
    weight = ErrorWeight(schedule, "data", "velocity", least=clip)
    return Matching(AffinePath(schedule), "data", times=LogitNormalTimes(-0.8, 0.8), weight=weight)


def _blurred(path: Path, sigma: float) -> Path:
    return path if sigma == 0 else Blurred(path, sigma)
