"""How sure one can be of a rate that was found in a sample. Pure arithmetic; what is sampled is others' business."""

from __future__ import annotations

from math import sqrt

__all__ = ["wilson"]

_Z = 1.959963984540054
"""The normal quantile of 0.975: an interval of 95%."""


def wilson(found: int, looked_at: int) -> tuple[float, float]:
    """The 95% score interval of a rate of which ``found`` in ``looked_at`` were seen; all of 0 to 1 if nothing was.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927). Unlike the textbook interval it says something sensible where nothing was found:
    0 wrong of 300 is not "0%", it is "at most 1.3%".
    """
    if looked_at <= 0:
        return 0.0, 1.0
    rate, square = found / looked_at, _Z * _Z
    middle = rate + square / (2 * looked_at)
    reach = _Z * sqrt(rate * (1 - rate) / looked_at + square / (4 * looked_at * looked_at))
    whole = 1 + square / looked_at
    low = 0.0 if found == 0 else (middle - reach) / whole
    high = 1.0 if found == looked_at else (middle + reach) / whole
    return low, high
