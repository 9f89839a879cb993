"""Finding out that an agent runs in circles: a pure detector, fed with calls and outcomes.

It knows nothing of caches, sessions, tasks or time. Someone else tells it which call
is about to be made (``verdict``), that it was made (``saw``), how an executed call
turned out (``outcome``), and that the user spoke (``new_turn``).

The rules:

* **repeat**: sequential equal calls whose outcome stays the same. The call after
  ``max_tool_repeats`` of them trips. A new outcome, or a write to what the call reads, is
  progress and starts over. A hit is a repeat with an unchanged outcome.
* **alternation** (period 2) and **cycle** (3 to 5): the same calls in the same order, outcomes
  unchanged, ``cycle_repeats`` times over; the next one trips.
* **depth**: a budget of calls, not a loop, and says so.

Each step is O(1) in time; memory is bounded by ``_MAX_TRACKS`` calls.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from agent_cache.errors import ConfigurationError
from agent_cache.model import LoopEvent, LoopKind, ToolCall

__all__ = ["CallTrack", "LoopDetector", "LoopPolicy", "OnLoop"]

OnLoop = Literal["raise", "warn", "short_circuit", "staged"] | Callable[[LoopEvent], object]
ON_LOOP = ("raise", "warn", "short_circuit", "staged")

_MAX_TRACKS = 512
_PERIODS = (2, 3, 4, 5)
_POLL_FACTOR = 10  # a tool declared as polling may repeat an unchanged outcome this many times longer
_EVIDENCE = 12


@dataclass(frozen=True, slots=True)
class LoopPolicy:
    """Thresholds, all counts of calls.

    ``max_tool_repeats`` equal calls with an equal outcome pass, the next one trips; ``max_execution_depth``
    is how many calls one turn may make.
    """

    max_tool_repeats: int = 5
    max_execution_depth: int = 50

    def __post_init__(self) -> None:
        for name in ("max_tool_repeats", "max_execution_depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(name, value, "give a whole number of calls from 1")

    @property
    def cycle_repeats(self) -> int:
        """How many times over a cycle may be seen: one less than a single call, and three at least."""
        return max(3, self.max_tool_repeats - 1)


def checked_on_loop(on_loop: Any) -> OnLoop:
    if callable(on_loop) or (isinstance(on_loop, str) and on_loop in ON_LOOP):
        accepted: OnLoop = on_loop
        return accepted
    raise ConfigurationError(
        "on_loop", on_loop, f"give one of {', '.join(map(repr, ON_LOOP))} or a function of the event"
    )


class Retired(Protocol):
    """What is answered at once on behalf of a track, as long as its generation is current."""

    generation: object


class CallTrack:
    """What the detector remembers of one call (a tool with its arguments)."""

    __slots__ = (
        "arguments", "count", "key", "lane", "last_step", "limit", "outcome", "running", "stamp", "tick", "tool", "warm",
    )  # fmt: skip

    def __init__(self, key: Hashable, tool: str, arguments: Mapping[str, str], limit: int) -> None:
        self.key = key
        self.tool = tool
        self.arguments = arguments
        self.limit = limit
        self.count = 0
        self.outcome: Hashable = None
        self.stamp: Hashable = None
        self.last_step = 0
        # whoever feeds the detector keeps here what it needs to tell equal calls made at once from repeats
        self.lane: object = None
        self.tick: int | None = None
        self.running = 0
        self.warm: Retired | None = None

    def retire(self) -> None:
        """Nobody counts with this any more: what would be answered without asking must ask again."""
        if self.warm is not None:
            self.warm.generation = None
            self.warm = None


class LoopDetector:
    """One session's detector. Not thread-safe: the session calls it under its lock."""

    def __init__(self, policy: LoopPolicy) -> None:
        self.policy = policy
        self.steps = self._recount_at = 0
        self._tracks: OrderedDict[Hashable, CallTrack] = OrderedDict()
        self._recent: deque[CallTrack] = deque(maxlen=_EVIDENCE)
        self._last: list[CallTrack | None] = [None] * (max(_PERIODS) + 1)
        self._runs = dict.fromkeys(_PERIODS, 0)
        self._closest = policy.max_tool_repeats

    def track(self, key: Hashable, tool: str, arguments: Callable[[], Mapping[str, str]], poll: bool) -> CallTrack:
        """The memory of this call, made if it is new. The least recently made call is forgotten for room."""
        track = self._tracks.get(key)
        if track is None:
            limit = self.policy.max_tool_repeats * (_POLL_FACTOR if poll else 1)
            track = self._tracks[key] = CallTrack(key, tool, arguments(), limit)
            if len(self._tracks) > _MAX_TRACKS:
                self._tracks.popitem(last=False)[1].retire()
        else:
            self._tracks.move_to_end(key)
        return track

    def verdict(self, track: CallTrack) -> LoopEvent | None:
        """What making this call now would be; None when it is fine."""
        policy = self.policy
        if track.count >= track.limit:
            return self._event("repeat", track, 1, track.count)
        for period in _PERIODS:
            runs = self._runs[period]
            if runs >= period * (policy.cycle_repeats - 1) and self._ago(period) is track and self._is_cycle(period):
                if track.limit > policy.max_tool_repeats:
                    continue  # a polling tool
                return self._event("alternation" if period == 2 else "cycle", track, period, 1 + runs // period)
        if self.steps >= policy.max_execution_depth:
            return self._event("depth", track, 0, self.steps)
        return None

    def saw(self, track: CallTrack, times: int = 1) -> None:
        """The call was made ``times`` in a row, with the outcome it had before unless :meth:`outcome` says otherwise."""
        track.count += times
        left = track.limit - track.count
        if left < self._closest:
            self._closest = left
        for _ in range(min(times, max(_PERIODS) + 1)):
            for period in _PERIODS:
                self._runs[period] = self._runs[period] + 1 if self._ago(period) is track else 0
            self._last.append(track)
            del self._last[0]
            self._recent.append(track)
        self.steps += times
        track.last_step = self.steps

    def outcome(self, track: CallTrack, outcome: Hashable, stamp: Hashable) -> None:
        """The call was executed and turned out like this. A new outcome, or a moved stamp, is progress.

        ``stamp`` is what the read depended on; ``None`` when it is not known (then it counts as moved).
        """
        progress = outcome is None or (
            track.outcome is not None and (outcome != track.outcome or stamp is None or stamp != track.stamp)
        )
        track.outcome, track.stamp = outcome, stamp
        if progress or track.count <= 1:
            track.count = min(track.count, 1)
            self._runs = dict.fromkeys(_PERIODS, 0)

    def progress(self, track: CallTrack) -> None:
        """Something this call depends on was written: it starts over."""
        track.count = 0
        self._runs = dict.fromkeys(_PERIODS, 0)

    def new_turn(self) -> None:
        """The user spoke: repeats, cycles and the budget start over."""
        self._tracks.clear()
        self._recent.clear()
        self._last = [None] * (max(_PERIODS) + 1)
        self._runs = dict.fromkeys(_PERIODS, 0)
        self._closest = self.policy.max_tool_repeats
        self.steps = self._recount_at = 0

    def headroom(self) -> int:
        """How many further calls, whatever they are, cannot trip anything."""
        if self._closest <= 1 and self.steps >= self._recount_at:
            # counts that fell since are seen here; every 64 steps at most, so it costs O(1) per call
            self._recount_at = self.steps + 64
            lefts = [track.limit - track.count for track in self._tracks.values()]
            self._closest = min([self.policy.max_tool_repeats, *lefts])
        cycles = self.policy.cycle_repeats - 1
        rooms = [self.policy.max_execution_depth - self.steps, self._closest]
        rooms += [period * cycles - self._runs[period] for period in _PERIODS]
        return max(0, min(rooms))

    def _ago(self, period: int) -> CallTrack | None:
        return self._last[-period]

    def _is_cycle(self, period: int) -> bool:
        """Not one call only, and not a shorter cycle seen again."""
        turn = self._last[-period:]
        if len({id(t) for t in turn}) == 1:
            return False
        return not any(
            period % shorter == 0 and all(turn[i] is turn[i % shorter] for i in range(period))
            for shorter in _PERIODS
            if shorter < period
        )

    def _event(self, kind: LoopKind, track: CallTrack, period: int, count: int) -> LoopEvent:
        span = _EVIDENCE if kind == "depth" else max(1, period) * count
        seen = list(islice(reversed(self._recent), min(span, _EVIDENCE)))[::-1]
        if kind == "repeat":
            seen = [track] * min(count, _EVIDENCE)
        first = max(1, self.steps - len(seen) + 1)
        calls = tuple(ToolCall(t.tool, t.arguments, first + i) for i, t in enumerate(seen))
        return LoopEvent(
            tool=track.tool,
            arguments=track.arguments,
            kind=kind,
            period=period,
            count=count,
            calls=calls,
            first_step=first,
            last_step=self.steps,
            hint=_hint(kind, track, count, seen[-period:] if period > 1 else [track]),
        )


def _spell(track: CallTrack) -> str:
    return f"{track.tool}({', '.join(f'{k}={v}' for k, v in track.arguments.items())})"


def _hint(kind: LoopKind, track: CallTrack, count: int, turn: Sequence[CallTrack]) -> str:
    if kind == "depth":
        return f"The budget of {count} tool calls for this turn is used up. Answer with what you have, or ask the user."
    if kind == "repeat":
        return (
            f"{_spell(track)} has been called {count} times and its result has not changed. "
            "Calling it again will not help: use the result you have, change the arguments, or ask the user. "
            "(If this tool is meant to be polled, declare it with poll=True.)"
        )
    return (
        f"The calls {', '.join(dict.fromkeys(map(_spell, turn)))} have been made in turn {count} times "
        "and nothing has changed. Do something else, or ask the user."
    )


__all__ += ["checked_on_loop"]
