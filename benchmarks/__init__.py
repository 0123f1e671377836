"""Measured figures: ratios of times against plain torch and other flow packages. `python -m benchmarks --help`."""
