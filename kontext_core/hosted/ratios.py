"""Aspect ratios of results: the chosen one, or that of the first picture with small terms."""

from __future__ import annotations

import re
from fractions import Fraction

from ..resolutions import RATIOS
from .wire import Ratio

WIDEST = Fraction(7, 3)
FINEST = 128  # the largest height in a computed ratio: at most 0.4 % off, a quarter of the model's grid
_NUMBER = r"\s*(\d{1,5}(?:\.\d{1,5})?)\s*"  # bounded: Fraction takes "1e999999999" and computes for hours
_TWO_NUMBERS = re.compile(f"{_NUMBER}:{_NUMBER}", re.ASCII)


def chosen(text: str) -> Ratio:
    """ "16:9" or "1.85:1". ValueError for anything else and outside of 3:7 to 7:3."""
    if text in RATIOS:
        return Ratio(*RATIOS[text])
    match = _TWO_NUMBERS.fullmatch(text)
    width, height = map(Fraction, match.groups()) if match else (Fraction(0), Fraction(0))
    if min(width, height) <= 0:
        shown = text if len(text) <= 20 else text[:20] + "..."
        raise ValueError(f"ratio is {shown!r}; two numbers above 0 are needed, width to height, as in 5:4 or 1.85:1.")
    value = width / height
    _require_range(value, f"ratio is {text}")
    return Ratio(value.numerator, value.denominator)


def of_picture(width: int, height: int) -> Ratio:
    """The ratio of a picture. ValueError outside of 3:7 to 7:3."""
    exact = Fraction(width, height)
    _require_range(exact, f"reference 1 is {width}x{height} px")
    nearest = max(1 / WIDEST, min(WIDEST, exact.limit_denominator(FINEST)))
    return Ratio(nearest.numerator, nearest.denominator, of_picture=True)


def _require_range(value: Fraction, what: str) -> None:
    if not 1 / WIDEST <= value <= WIDEST:
        raise ValueError(
            f"{what}, {float(value):.2f} to 1; Kontext makes pictures from 3:7 to 7:3. Choose a ratio within, or crop."
        )
