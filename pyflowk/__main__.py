"""`python -m pyflowk`: the `pyflowk` command, for launchers that start modules."""

import sys

from .cli import main

sys.exit(main())
