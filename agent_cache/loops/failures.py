"""One tool failing the same way again and again, whatever its arguments.

A model that varies its arguments is searching, so more failures pass than equal calls would; one that comes back to
arguments that have failed already is not, so these count twice. A failure after something was learned counts half,
and the next attempt is then allowed; a success, another error, or a write starts over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import TYPE_CHECKING

from agent_cache.loops.outcomes import Outcome
from agent_cache.loops.series import EVIDENCE

if TYPE_CHECKING:
    from agent_cache.loops.detector import CallTrack

__all__ = ["ToolMemory"]

_MAX_ANSWERS = 64
_MAX_FAILED = 64
_ONE = 2


class ToolMemory:
    """What the detector remembers of one tool: answers it gave lately, and its run of equal failures."""

    __slots__ = ("answers", "count", "error", "failed", "learned", "seen", "units", "written")

    def __init__(self) -> None:
        self.answers: OrderedDict[Hashable, None] = OrderedDict()
        self.error: Outcome | None = None
        self.count = 0
        self.units = 0
        self.failed: OrderedDict[Hashable, None] = OrderedDict()
        self.seen: deque[tuple[CallTrack, int]] = deque(maxlen=EVIDENCE)
        self.learned = 0
        self.written = 0

    def knows(self, answer: Hashable) -> bool:
        """Whether it has answered this lately; from now on it has."""
        if answer in self.answers:
            self.answers.move_to_end(answer)
            return True
        self.answers[answer] = None
        if len(self.answers) > _MAX_ANSWERS:
            self.answers.popitem(last=False)
        return False

    def failure(self, track: CallTrack, outcome: Outcome, step: int, learned: int, written: int) -> None:
        """The call failed. ``learned`` and ``written``: how much was before it."""
        if self.error is None or written != self.written or not outcome.same_as(self.error):
            self.success()
            self.error = outcome
        weight = self._weight(track)
        self.units += weight // 2 if self.units and learned != self.learned else weight
        self.count += 1
        self.failed[track.key] = None
        if len(self.failed) > _MAX_FAILED:
            self.failed.popitem(last=False)
        self.seen.append((track, step))
        self.learned, self.written = learned, written

    def success(self) -> None:
        """The call did not fail."""
        if self.error is not None:
            self.error = None
            self.count = self.units = 0
            self.failed.clear()
            self.seen.clear()

    def fails_on(self, track: CallTrack, limit: int, learned: int, written: int) -> bool:
        """Whether this call would be one too many: under changing arguments, with nothing learned or written since."""
        return (
            len(self.failed) > 1
            and learned == self.learned
            and written == self.written
            and self.units + self._weight(track) > _ONE * limit
        )

    def _weight(self, track: CallTrack) -> int:
        return 2 * _ONE if track.key in self.failed else _ONE
