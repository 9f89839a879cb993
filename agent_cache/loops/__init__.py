"""Finding out that an agent runs in circles: a pure detector, fed with calls and outcomes.

It knows nothing of caches, sessions, tasks or time. Someone else tells it which call is about to be made
(``verdict``), that it was made (``saw``), how it turned out (``outcome``), and that the user spoke (``new_turn``).

========  ==================================================================================
room      what it does
========  ==================================================================================
policy    the thresholds of a session and what one tool says of itself (frozen)
outcomes  when two outcomes are the same one: exactly, or but for time stamps, ids, durations
series    how often calls were made without anything new coming of it
failures  one tool failing the same way again and again, whatever its arguments
detector  asks them all, and says what it found (:class:`~agent_cache.LoopEvent`)
========  ==================================================================================

``docs/loops.md`` has the rules with their reasons. What does *not* belong here: who called, what is done about it, and
anything that waits or knows a clock.
"""

from agent_cache.loops.detector import CallTrack, LoopDetector
from agent_cache.loops.outcomes import Outcome, is_error_result
from agent_cache.loops.policy import LoopKey, LoopPolicy, OnLoop, ToolRule, checked_on_loop, checked_rule

__all__ = [
    "CallTrack",
    "LoopDetector",
    "LoopKey",
    "LoopPolicy",
    "OnLoop",
    "Outcome",
    "ToolRule",
    "checked_on_loop",
    "checked_rule",
    "is_error_result",
]
