"""The faces of other packages over this one, for code that is to change an import and nothing else; and
:func:`accelerate`, for flows of other packages."""

from .acceleration import Acceleration, Part, accelerate

__all__ = ["Acceleration", "Part", "accelerate"]
