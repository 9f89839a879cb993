"""How often calls were made without anything new coming of it.

A repeat counts in full (eight units) where nothing new came since the last time; five where only calls were made that had
not been made before; one where something was learned: an answer that was not known, an outcome that changed, a write. So
a call repeated in a standstill is found at once; one that accompanies real work (the ``sleep`` of a poll, the check after
each step) may be made many times over, yet not without end.

Of a hit it is certain that nothing it depends on was written, so it counts in full, and half where something was learned.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_cache.loops.detector import CallTrack
    from agent_cache.loops.outcomes import Outcome

__all__ = ["EVIDENCE", "FULL", "Kin", "Series"]

FULL, TRIED, LEARNED = 8, 5, 1
HIT_LEARNED = 4
EVIDENCE = 12


class Series:
    """Calls that have brought the same outcome since ``first_step``; ``limit`` of them pass."""

    __slots__ = (
        "count", "first_step", "gap", "last_step", "learned", "limit", "novel", "seen", "sure", "units", "written",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.units = 0
        self.first_step = 0
        self.last_step = 0
        # how much was known when the last of them was made
        self.learned = 0
        self.written = 0
        self.novel = 0
        self.sure = False
        """The last of them was a hit."""
        self.gap = 0
        """What the last of them counted for as a hit, less what it counted for."""
        self.seen: deque[tuple[CallTrack, int]] = deque(maxlen=EVIDENCE)

    @property
    def left(self) -> int:
        """Units until the limit."""
        return FULL * self.limit - self.units

    def add(self, track: CallTrack, times: int, step: int, learned: int, written: int, novel: int) -> None:
        """``times`` more in a row, the last of them at ``step``."""
        if self.units == 0:
            self.units = FULL * times
            self.gap = 0
            self.first_step = step - times + 1
            self.seen.clear()
        else:
            news = self.learned != learned
            weight = as_hit = HIT_LEARNED if news else FULL
            if not self.sure:
                weight = LEARNED if news or self.written != written else TRIED if self.novel != novel else FULL
            self.gap = as_hit - weight if times == 1 else 0
            self.units += weight + FULL * (times - 1)
        self.count += times
        self.learned, self.written, self.novel, self.last_step = learned, written, novel, step
        for at in range(max(step - EVIDENCE, step - times) + 1, step + 1):
            self.seen.append((track, at))

    def answered(self, hit: bool) -> None:
        """How the last of them was answered."""
        self.sure = hit
        if hit:
            self.units += self.gap
        self.gap = 0

    def restart(self) -> None:
        """The last call brought something new: it is the first of its series."""
        if self.count:
            self.count, self.units, self.first_step = 1, FULL, self.last_step
            while len(self.seen) > 1:
                self.seen.popleft()

    def forget(self) -> None:
        self.count = self.units = 0


class Kin(Series):
    """Calls of one tool that differ only in the order, the case or the spacing of the words in a text."""

    __slots__ = ("last", "members")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.last: Outcome | None = None
        self.members = 0
