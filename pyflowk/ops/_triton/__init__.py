"""The ops in Triton: `backend` is what the router sees, the other modules, one an op, hold the kernels."""
