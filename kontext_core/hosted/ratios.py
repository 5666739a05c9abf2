"""Shapes of results: what was chosen, or the shape of the first picture in numbers small enough to send."""

from __future__ import annotations

from fractions import Fraction

from ..resolutions import RATIOS
from .wire import Ratio

WIDEST = Fraction(7, 3)
FINEST = 128  # the largest height in a ratio that we make: at most 0.4 % off, a quarter of the model's grid


def chosen(text: str) -> Ratio:
    """ "16:9" or "1.85:1". ValueError for anything else and outside of 3:7 to 7:3."""
    if text in RATIOS:
        return Ratio(*RATIOS[text])
    try:
        width, height = (Fraction(part.strip()) for part in text.split(":"))
    except (ValueError, ZeroDivisionError):
        width = height = Fraction(0)
    if min(width, height) <= 0:
        raise ValueError(f"ratio is {text!r}; two numbers above 0 are needed, width to height, as in 5:4.")
    value = width / height
    _require_range(value, f"ratio is {text}")
    return Ratio(value.numerator, value.denominator)


def of_picture(width: int, height: int) -> Ratio:
    """The shape of a picture. ValueError outside of 3:7 to 7:3."""
    exact = Fraction(width, height)
    _require_range(exact, f"reference 1 is {width}x{height} px")
    nearest = max(1 / WIDEST, min(WIDEST, exact.limit_denominator(FINEST)))
    return Ratio(nearest.numerator, nearest.denominator, of_picture=True)


def _require_range(value: Fraction, what: str) -> None:
    if not 1 / WIDEST <= value <= WIDEST:
        raise ValueError(
            f"{what}, {float(value):.2f} to 1; Kontext makes pictures from 3:7 to 7:3. Choose a ratio within, or crop."
        )
