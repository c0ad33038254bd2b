"""The learner that `consortia new learner centres` writes, as an installed package would bring it."""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import Any

from consortia.cli.new import _fill

__all__ = ["centres"]


@cache
def centres() -> Any:
    """Return the module of the template, filled in."""
    values = {"name": "centres", "class_name": "Centres", "identifier": "centres", "module": "own_centres"}
    module = ModuleType("own_centres")
    sys.modules["own_centres"] = module  # a dataclass looks its own module up
    exec(_fill("learner.py.txt", values), module.__dict__)
    return module
