"""Everything that walks from one time to another: ordinary differential equations (`ode`), stochastic ones (`sde`).

`odeint` gives states at times and differentiates; `solve_ivp` gives a `Solution`, with the steps taken, a `Dense`
output and what an `Event` met, a `Record`; `sdeint` is for noise, `manifold_odeint` for points of a manifold. `METHODS`
are the methods by name, `TABLEAUS` the Runge-Kutta ones, a `Tableau` each by `tableau`. Steps are `Adaptive` or
`Fixed`, gradients made by `Recompute`, `Backprop` or `Backsolve`. `Status` tells how a row ended, `SolverError` that it
could not.

A `Guided` field goes further than its context, in the direction of a `difference`, of `zero_star` or of what is
`projected`. `flower` draws events given what a linear `Operator`, `masking`, `pooling` or `blurring`, showed of them,
`inpaint` given some of their elements, or says `NotConverged`.

Samplers know the path whose field they follow, and take any prediction: `ddim`, `ddpm`, `curved_euler`, `overshooting`,
`dpmpp_2m`, `edm_heun` (`diffusion`), `euler_maruyama`, `stochastic_heun`, with one of `DIFFUSIONS`, and
`predictor_corrector` (`stochastic`). Their times are a grid: `uniform_grid`, `power_grid`, `shifted_grid`, as
`resolution_shift` says, `clock_grid`, `karras_grid`, or any that `check_grid` passes. A `flow_map` jumps along one, a
model of `consistency` to the data and back. What moves and jumps is walked by `jump_euler`, its jumps let through by
one of `GATES`, or by `jump_thinning`, and ends as a `Jumped`. Symbols jump: `jump_flow` takes a `MixtureStep` or an
`EulerStep` along a grid, with a `GibbsStep` or without; masks may also go one by one, `first_hitting`, or the surest
first, `unmask`, by one of `CONFIDENCES`; a `Truncation` sharpens what is drawn, a `Tally` counts; `simplex_flow`
carries embeddings. `walk_edits` makes sequences of any length, an `EditWalk`; `denoise` takes the noise off events by
their score.
"""

from .ctmc import EulerStep, GibbsStep, MixtureStep, Tally, Truncation, jump_flow
from .denoising import denoise
from .diffusion import curved_euler, ddim, ddpm, dpmpp_2m, edm_heun, overshooting
from .edits import EditWalk, walk_edits
from .flow_map import consistency, flow_map
from .grids import check_grid, clock_grid, karras_grid, power_grid, resolution_shift, shifted_grid, uniform_grid
from .guidance import Guided, difference, projected, zero_star
from .inverse_problems import NotConverged, Operator, blurring, flower, inpaint, masking, pooling
from .jumps import GATES, Jumped, jump_euler, jump_thinning
from .ode.adjoint import Backprop, Backsolve, Recompute
from .ode.control import Status
from .ode.dense import Dense
from .ode.events import Event, Record
from .ode.methods import METHODS, TABLEAUS, tableau
from .ode.odeint import odeint
from .ode.solve import Solution, SolverError, solve_ivp
from .ode.stepping import Adaptive, Fixed
from .ode.tableaus import Tableau
from .riemannian import manifold_odeint
from .sde import sdeint
from .simplex import simplex_flow
from .stochastic import DIFFUSIONS, euler_maruyama, predictor_corrector, stochastic_heun
from .unmasking import CONFIDENCES, first_hitting, unmask

__all__ = [
    "CONFIDENCES",
    "DIFFUSIONS",
    "GATES",
    "METHODS",
    "TABLEAUS",
    "Adaptive",
    "Backprop",
    "Backsolve",
    "Dense",
    "EditWalk",
    "EulerStep",
    "Event",
    "Fixed",
    "GibbsStep",
    "Guided",
    "Jumped",
    "MixtureStep",
    "NotConverged",
    "Operator",
    "Recompute",
    "Record",
    "Solution",
    "SolverError",
    "Status",
    "Tableau",
    "Tally",
    "Truncation",
    "blurring",
    "check_grid",
    "clock_grid",
    "consistency",
    "curved_euler",
    "ddim",
    "ddpm",
    "denoise",
    "difference",
    "dpmpp_2m",
    "edm_heun",
    "euler_maruyama",
    "first_hitting",
    "flow_map",
    "flower",
    "inpaint",
    "jump_euler",
    "jump_flow",
    "jump_thinning",
    "karras_grid",
    "manifold_odeint",
    "masking",
    "odeint",
    "overshooting",
    "pooling",
    "power_grid",
    "predictor_corrector",
    "projected",
    "resolution_shift",
    "sdeint",
    "shifted_grid",
    "simplex_flow",
    "solve_ivp",
    "stochastic_heun",
    "tableau",
    "uniform_grid",
    "unmask",
    "walk_edits",
    "zero_star",
]
