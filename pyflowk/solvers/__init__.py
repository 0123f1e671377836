"""Integrators of ordinary and stochastic differential equations, every row of a batch with steps of its own."""

from .control import Control, Status
from .dense import Dense
from .events import Event, Record
from .odeint import odeint
from .sde import sdeint
from .solve import Solution, SolverError, solve_ivp
from .tableaus import METHODS, TABLEAUS, Tableau, tableau

__all__ = [
    "METHODS",
    "TABLEAUS",
    "Control",
    "Dense",
    "Event",
    "Record",
    "Solution",
    "SolverError",
    "Status",
    "Tableau",
    "odeint",
    "sdeint",
    "solve_ivp",
    "tableau",
]
