"""Fused operations: one file each, with its plain-torch formula, the kernels behind it and its derivatives.

Couplings: `affine_coupling`, `additive_coupling`, and the former's gradient `affine_coupling_from_output`. Splines:
`rq_spline`, `spline_params`. Autoregressive networks: `made_forward`, `made_inverse` on a `MadeLayout`. 1x1
convolutions: `conv1x1`, `conv1x1_gradients`, `lu_weight`, `lu_factor_slogdet`, which raises `SingularTransformError`.
Networks: `mlp`, `lipswish`. Solvers: `rk_combine`, `rk_error`, `rk_control`, `cnf_trajectory`. Traces and
log-determinants: `draw_probes`, `trace_estimate`, `power_series`. `registry` holds every op by name.
"""

from ._router import registry
from .affine_coupling import additive_coupling, affine_coupling, affine_coupling_from_output
from .cnf_trajectory import cnf_trajectory
from .conv1x1 import conv1x1, conv1x1_gradients
from .hutchinson import draw_probes, trace_estimate
from .lipswish import lipswish
from .lu_weight import SingularTransformError, lu_factor_slogdet, lu_weight
from .made import made_forward, made_inverse
from .made_layout import MadeLayout
from .mlp import mlp
from .power_series import power_series
from .rk_control import rk_control
from .rk_step import rk_combine, rk_error
from .rq_spline import rq_spline, spline_params

__all__ = [
    "MadeLayout",
    "SingularTransformError",
    "additive_coupling",
    "affine_coupling",
    "affine_coupling_from_output",
    "cnf_trajectory",
    "conv1x1",
    "conv1x1_gradients",
    "draw_probes",
    "lipswish",
    "lu_factor_slogdet",
    "lu_weight",
    "made_forward",
    "made_inverse",
    "mlp",
    "power_series",
    "registry",
    "rk_combine",
    "rk_control",
    "rk_error",
    "rq_spline",
    "spline_params",
    "trace_estimate",
]
