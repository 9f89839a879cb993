"""Keys that were evicted lately, and how long ago. No values, no keys, and a fixed number of bytes.

A table of 64-bit words, two to four for each key it is asked to remember; a later key may take an
earlier one's place, so a few are forgotten too soon. That costs a hit now and then, never an answer.
"""

from __future__ import annotations

from array import array

__all__ = ["NEVER", "Ghosts"]

NEVER = 1 << 62
"""The age of a key that is not in the table."""

# A word is a tag and a time, 60 bits in all: two digits of an int, and quicker than three.
_TIME = (1 << 30) - 1
_TAG = (1 << 29) - 1
_TAKEN = 1 << 29  # part of every tag: no word in use is zero


class Ghosts:
    """Remembers about ``capacity`` hashes. Ages are counted in hashes added since."""

    __slots__ = ("_bits", "_mask", "_now", "_words", "most")

    def __init__(self, capacity: int) -> None:
        self.most = capacity
        """When more are to be remembered, it is time for a larger table; what that means is the owner's to say."""
        self._bits = max(4, (2 * capacity - 1).bit_length())
        self._mask = (1 << self._bits) - 1
        self._words = array("Q", bytes(8 << self._bits))
        self._now = 0

    def add(self, hashed: int) -> None:
        """Remember one. It takes the place of whatever else fell on the same word."""
        now = self._now
        self._words[hashed & self._mask] = ((((hashed >> self._bits) & _TAG) | _TAKEN) << 30) | now
        self._now = (now + 1) & _TIME

    def take(self, hashed: int) -> int:
        """Its age, from 1 for the last one added, and forget it; :data:`NEVER` if it is not remembered."""
        place = hashed & self._mask
        word = self._words[place]
        if word >> 30 != ((hashed >> self._bits) & _TAG) | _TAKEN:
            return NEVER
        self._words[place] = 0
        return (self._now - word) & _TIME
