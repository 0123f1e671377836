"""The registered data sets: one file each, or one for a family; a file that lies here is read, no list names it."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
