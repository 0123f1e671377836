"""The faces of other packages over this one, for code that is to change an import and nothing else."""
