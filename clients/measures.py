"""Converts units of measure exactly: with fractions, so that 172 cm and 1.72 m are one number to the last bit.

`pint` knows the units. A conversion is affine; its two constants are taken as fractions, a value is read as the
decimal that it is written as, and only the result is rounded to a float.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from clients.errors import SchemaError

if TYPE_CHECKING:
    import pint

__all__ = ["Conversion", "conversion", "known"]

#: How measures are often written, and how pint writes them.
_SPELLED: Final = {
    "years": "year",
    "1/min": "1/minute",
    "rpm": "1/minute",
    "N m": "newton*meter",
    "min N m": "minute*newton*meter",
    "mmHg": "mmHg",
    "%": "percent",
}


class Conversion:
    """value -> offset + slope * value, exactly."""

    def __init__(self, offset: Fraction, slope: Fraction) -> None:
        self.offset, self.slope = offset, slope

    def exact(self, value: Fraction) -> Fraction:
        """Return the value in the other unit."""
        return self.offset + self.slope * value


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry[Any]:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)


def known(unit: str) -> bool:
    """Whether `unit` is a unit of measure."""
    try:
        _registry().Unit(_SPELLED.get(unit, unit))
    except Exception:  # noqa: BLE001 - pint raises many kinds for what it cannot read
        return False
    return bool(unit)


@lru_cache(maxsize=256)
def conversion(source: str, target: str, molar_mass: float | None, where: str) -> Conversion:
    """Return the conversion from one unit of measure to another.

    Parameters
    ----------
    molar_mass : float, optional
        In g/mol: between a mass and an amount of substance, as mg/dl and mmol/l (cholesterol: 386.65; glucose:
        180.16).

    Raises
    ------
    SchemaError
        One of them is unknown, or they measure different things.
    """
    registry = _registry()
    for unit in (source, target):
        if not known(unit):
            raise SchemaError(f"{where}: wanted a unit of measure such as mg/dl, cm or degF, got {unit!r}; correct it")
    here, there = (_SPELLED.get(unit, unit) for unit in (source, target))
    try:
        ends = []
        for value in (0, 1):
            quantity = registry.Quantity(Fraction(value), here)
            if molar_mass is not None:
                mass = registry.Quantity(Fraction(str(molar_mass)), "g/mol")
                to_amount = registry.Unit(there).dimensionality.get("[substance]", 0) != 0
                quantity = quantity / mass if to_amount else quantity * mass
            ends.append(Fraction(quantity.to(there).magnitude))
    except Exception as error:  # noqa: BLE001 - pint raises many kinds
        hint = "" if molar_mass is not None else "; a mass and an amount need molar_mass in g/mol"
        raise SchemaError(
            f"{where}: wanted a unit that converts to {target!r}, got {source!r} ({type(error).__name__}){hint}"
        ) from None
    return Conversion(ends[0], ends[1] - ends[0])
