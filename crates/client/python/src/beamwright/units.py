"""Quantities with units: `20 * bw.us`, `0.5 * bw.nm`, `300 * bw.e_per_A2`.

A quantity knows its dimension; adding a time to a length, or giving a plan a bare number, is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BASE = {
    "time": "ns",
    "length": "nm",
    "angle": "rad",
    "electrons": "electrons",
    "dose": "e/Å²",
    "dose rate": "e/Å²/s",
    "current": "pA",
    "voltage": "kV",
}


@dataclass(frozen=True, order=False)
class Quantity:
    """A number with a unit. `value` is in the base unit of its `dimension`: ns, nm, rad, electrons, e/Å², e/Å²/s, pA, kV."""

    value: float
    dimension: str

    def to(self, unit: Quantity) -> float:
        """How many of `unit` this is."""
        return self.value / self._same(unit, "expressed in").value

    def _same(self, other: object, verb: str) -> Quantity:
        if isinstance(other, Quantity) and other.dimension == self.dimension:
            return other
        raise TypeError(f"{self!r} cannot be {verb} {other!r}: it is a {self.dimension}")

    def __mul__(self, factor: float) -> Quantity:
        return Quantity(self.value * float(factor), self.dimension)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Quantity:
        return Quantity(self.value / float(divisor), self.dimension)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.value + self._same(other, "added to").value, self.dimension)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.value - self._same(other, "reduced by").value, self.dimension)

    def __neg__(self) -> Quantity:
        return Quantity(-self.value, self.dimension)

    def __lt__(self, other: Quantity) -> bool:
        return self.value < self._same(other, "compared with").value

    def __le__(self, other: Quantity) -> bool:
        return self.value <= self._same(other, "compared with").value

    def __repr__(self) -> str:
        return f"{self.value:g} {_BASE[self.dimension]}"


ns = Quantity(1.0, "time")
us = Quantity(1e3, "time")
ms = Quantity(1e6, "time")
s = Quantity(1e9, "time")
pm = Quantity(1e-3, "length")
angstrom = Quantity(0.1, "length")
nm = Quantity(1.0, "length")
um = Quantity(1e3, "length")
rad = Quantity(1.0, "angle")
deg = Quantity(math.pi / 180, "angle")
electrons = Quantity(1.0, "electrons")
e_per_A2 = Quantity(1.0, "dose")
e_per_A2_s = Quantity(1.0, "dose rate")
pA = Quantity(1.0, "current")
nA = Quantity(1e3, "current")
kV = Quantity(1.0, "voltage")


def in_base(field: str, quantity: Quantity, dimension: str) -> float:
    """The value of `quantity` in the base unit of `dimension`; refuses bare numbers and other dimensions by `field`."""
    if isinstance(quantity, Quantity) and quantity.dimension == dimension:
        return quantity.value
    example = {"time": "20 * bw.us", "length": "0.5 * bw.nm", "angle": "30 * bw.deg", "electrons": "50 * bw.electrons"}
    example |= {"dose": "300 * bw.e_per_A2", "dose rate": "100 * bw.e_per_A2_s", "current": "50 * bw.pA"}
    example |= {"voltage": "200 * bw.kV"}
    raise TypeError(f"{field} is {quantity!r}; it takes a {dimension} with its unit, such as {example[dimension]}")
