"""Integrators of ordinary differential equations, every row of a batch with steps of its own.

`odeint` gives states at times and differentiates; `solve_ivp` gives a `Solution`, with the steps taken, a `Dense`
output and what an `Event` met, a `Record`. `METHODS` are the methods by name, `TABLEAUS` the Runge-Kutta ones, a
`Tableau` each by `tableau`. Steps are `Adaptive` or `Fixed`, gradients made by `Checkpoint`, `Backprop` or `Backsolve`.
`Status` tells how a row ended, `SolverError` that it could not.
"""

from .adjoint import Backprop, Backsolve, Checkpoint
from .control import Status
from .dense import Dense
from .events import Event, Record
from .methods import METHODS, TABLEAUS, tableau
from .odeint import odeint
from .solve import Solution, SolverError, solve_ivp
from .stepping import Adaptive, Fixed
from .tableaus import Tableau

__all__ = [
    "METHODS",
    "TABLEAUS",
    "Adaptive",
    "Backprop",
    "Backsolve",
    "Checkpoint",
    "Dense",
    "Event",
    "Fixed",
    "Record",
    "Solution",
    "SolverError",
    "Status",
    "Tableau",
    "odeint",
    "solve_ivp",
    "tableau",
]
