"""Everything that walks from one time to another: ordinary differential equations (`ode`), stochastic ones (`sde`).

`odeint` gives states at times and differentiates; `solve_ivp` gives a `Solution`, with the steps taken, a `Dense`
output and what an `Event` met, a `Record`; `sdeint` is for noise. `METHODS` are the methods by name, `TABLEAUS` the
Runge-Kutta ones, a `Tableau` each by `tableau`. Steps are `Adaptive` or `Fixed`, gradients made by `Recompute`,
`Backprop` or `Backsolve`. `Status` tells how a row ended, `SolverError` that it could not.

A `Guided` field goes further than its context, in the direction of a `difference`, of `zero_star` or of what is
`projected`.
"""

from .guidance import Guided, difference, projected, zero_star
from .ode.adjoint import Backprop, Backsolve, Recompute
from .ode.control import Status
from .ode.dense import Dense
from .ode.events import Event, Record
from .ode.methods import METHODS, TABLEAUS, tableau
from .ode.odeint import odeint
from .ode.solve import Solution, SolverError, solve_ivp
from .ode.stepping import Adaptive, Fixed
from .ode.tableaus import Tableau
from .sde import sdeint

__all__ = [
    "METHODS",
    "TABLEAUS",
    "Adaptive",
    "Backprop",
    "Backsolve",
    "Dense",
    "Event",
    "Fixed",
    "Guided",
    "Recompute",
    "Record",
    "Solution",
    "SolverError",
    "Status",
    "Tableau",
    "difference",
    "odeint",
    "projected",
    "sdeint",
    "solve_ivp",
    "tableau",
    "zero_star",
]
