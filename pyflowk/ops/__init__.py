"""Fused operations: one file each, with its plain-torch formula, the kernels behind it and its derivatives.

What the files hold for their users, the names imported here:
"""

from types import FunctionType as _Function

from ._router import registry as registry
from .activation_tangents import activation_with_tangents as activation_with_tangents
from .affine_coupling import additive_coupling as additive_coupling
from .affine_coupling import affine_coupling as affine_coupling
from .affine_coupling import affine_coupling_from_output as affine_coupling_from_output
from .align import Alignment as Alignment
from .align import align as align
from .apply_edits import Edited as Edited
from .apply_edits import apply_edits as apply_edits
from .assignment import Assignment as Assignment
from .assignment import assignment as assignment
from .assignment import assignment_of_points as assignment_of_points
from .attention import attention as attention
from .attention import attention_with_tangents as attention_with_tangents
from .causal_decode import Lead as Lead
from .causal_decode import TransformerSizes as TransformerSizes
from .causal_decode import causal_decode as causal_decode
from .causal_decode import pack_transformer as pack_transformer
from .cnf_trajectory import cnf_trajectory as cnf_trajectory
from .conv1x1 import conv1x1 as conv1x1
from .conv1x1 import conv1x1_gradients as conv1x1_gradients
from .discrete_loss import discrete_loss as discrete_loss
from .drift import Drift as Drift
from .drift import drift as drift
from .guidance import guide as guide
from .hutchinson import draw_probes as draw_probes
from .hutchinson import trace_estimate as trace_estimate
from .jump_bins import jump_bins as jump_bins
from .jump_step import jump_step as jump_step
from .lipswish import lipswish as lipswish
from .lu_weight import SingularTransformError as SingularTransformError
from .lu_weight import lu_factor_slogdet as lu_factor_slogdet
from .lu_weight import lu_weight as lu_weight
from .made import made_forward as made_forward
from .made import made_inverse as made_inverse
from .made_layout import MadeLayout as MadeLayout
from .mlp import mlp as mlp
from .modulated_norm import modulated_norm as modulated_norm
from .modulated_norm import modulated_norm_with_tangents as modulated_norm_with_tangents
from .nearest import nearest as nearest
from .path_sample import path_sample as path_sample
from .power_series import power_series as power_series
from .random_numbers import random_numbers as random_numbers
from .rk_control import rk_control as rk_control
from .rk_step import rk_combine as rk_combine
from .rk_step import rk_error as rk_error
from .rq_spline import rq_spline as rq_spline
from .rq_spline import spline_params as spline_params
from .sinkhorn import Potentials as Potentials
from .sinkhorn import sinkhorn as sinkhorn
from .sinkhorn import sinkhorn_draw as sinkhorn_draw
from .sinkhorn import sinkhorn_plan as sinkhorn_plan

__all__ = sorted(
    name for name, thing in list(globals().items()) if isinstance(thing, (_Function, type)) and not name.startswith("_")
)
__doc__ = f"{__doc__}\n" + "\n".join(
    f"`{name}`: {(globals()[name].__doc__ or '').partition(chr(10))[0]}" for name in __all__
)
