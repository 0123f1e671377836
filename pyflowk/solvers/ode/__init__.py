"""Integrators of ordinary differential equations, every row of a batch with steps of its own.

`pyflowk.solvers` has what is public. `methods.py` holds the methods by name, `stepping.py` how steps are chosen,
`adjoint.py` how gradients are made; `solve.py` and `odeint.py` are the two ways in.
"""
