"""The detector: what making a call now would be, from all that was seen before."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from agent_cache.loops.failures import ToolMemory
from agent_cache.loops.hints import hint, spell
from agent_cache.loops.outcomes import Outcome
from agent_cache.loops.policy import LoopPolicy, ToolRule
from agent_cache.loops.series import EVIDENCE, FULL, Kin, Series
from agent_cache.model import LoopEvent, LoopKind, ToolCall

__all__ = ["CallTrack", "Finding", "LoopDetector"]

_MAX_TRACKS = 512
_MAX_TOOLS = 256
_PERIODS = (2, 3, 4, 5)
_MAX_TURNS = 64  # a cycle that may be gone through more often than that is found by its calls' repeats
_PLAIN = ToolRule()


class Retired(Protocol):
    """What is answered at once on behalf of a track, as long as its generation is current."""

    generation: object


class CallTrack(Series):
    """What the detector remembers of one call (a tool with its arguments)."""

    __slots__ = (
        "arguments", "ended", "fresh", "key", "kin", "lane", "last", "memory", "outcome", "plain", "running", "stamp",
        "stopped", "tick", "tool", "warm",
    )  # fmt: skip

    def __init__(
        self, key: Hashable, tool: str, arguments: Mapping[str, str], limit: int, memory: ToolMemory, *, plain: bool
    ) -> None:
        super().__init__(limit)
        self.key = key
        self.tool = tool
        self.arguments = arguments
        self.memory = memory
        self.plain = plain
        """It has no limit of its own: it may be part of a cycle."""
        self.kin: Kin | None = None
        self.fresh = True
        self.last: Outcome | None = None
        self.outcome: Hashable = None
        self.stamp: Hashable = None
        # whoever feeds the detector keeps here what it needs to tell equal calls made at once from repeats
        self.lane: object = None
        self.tick: object = None
        self.running = 0
        self.ended = 0.0
        self.stopped: Finding | None = None
        self.warm: Retired | None = None

    def retire(self) -> None:
        """Nobody counts with this any more: what would be answered without asking must ask again."""
        if self.warm is not None:
            self.warm.generation = None
            self.warm = None


class Finding(NamedTuple):
    """A loop, and what it is recognised by when it is met again."""

    event: LoopEvent
    pattern: Hashable


class LoopDetector:
    """One session's detector. Not thread-safe: the session calls it under its lock.

    Every step is O(1); memory is bounded by the last 512 calls, 256 tools, and 64 answers of each.
    """

    def __init__(self, policy: LoopPolicy) -> None:
        self.policy = policy
        self._turns = policy.cycle_turns
        self._window = max(_PERIODS) * self._turns if self._turns <= _MAX_TURNS else 0
        self._kept = max(self._window, EVIDENCE)
        self._start()

    def _start(self) -> None:
        self.steps = self._recount_at = 0
        self._tracks: OrderedDict[Hashable, CallTrack] = OrderedDict()
        self._kins: OrderedDict[Hashable, Kin] = OrderedDict()
        self._tools: OrderedDict[str, ToolMemory] = OrderedDict()
        self._recent: list[CallTrack] = []
        self._changed_at = 0  # no cycle reaches back behind this step
        self._learned = self._novel = self._written = 0
        self._idle = 0
        self._closest = FULL * self.policy.max_tool_repeats

    # -- calls ---------------------------------------------------------------------------------------------------------

    def known(self, key: Hashable) -> CallTrack | None:
        """The memory of this call, if there is one."""
        return self._tracks.get(key)

    def touch(self, track: CallTrack) -> None:
        """It is made again: it is not the next to be forgotten."""
        self._tracks.move_to_end(track.key)

    def track(
        self,
        key: Hashable,
        tool: str,
        describe: Callable[[], tuple[Mapping[str, str], Hashable]],
        rule: ToolRule = _PLAIN,
        *,
        twin: bool = False,
    ) -> CallTrack:
        """The memory of this call, made if it is new. The least recently made call is forgotten for room.

        ``describe`` gives its arguments as short text, and what it has in common with its kin (None: it has none).
        A ``twin`` is a call that somebody else has made before.
        """
        track = self._tracks.get(key)
        if track is not None:
            self._tracks.move_to_end(key)
            return track
        shown, kinship = describe()
        limit = rule.limit(self.policy)
        track = CallTrack(key, tool, shown, limit, self._memory(tool), plain=limit <= self.policy.max_tool_repeats)
        track.fresh = not twin
        if kinship is not None:
            kin = track.kin = self._kins.setdefault((tool, kinship), Kin(limit))
            kin.members += 1
            if len(self._kins) > _MAX_TRACKS:
                self._kins.popitem(last=False)
        self._tracks[key] = track
        if len(self._tracks) > _MAX_TRACKS:
            self._tracks.popitem(last=False)[1].retire()
        return track

    def _memory(self, tool: str) -> ToolMemory:
        memory = self._tools.get(tool)
        if memory is None:
            memory = self._tools[tool] = ToolMemory()
            if len(self._tools) > _MAX_TOOLS:
                self._tools.popitem(last=False)
        else:
            self._tools.move_to_end(tool)
        return memory

    # -- what happened -------------------------------------------------------------------------------------------------

    def saw(self, track: CallTrack, times: int = 1) -> None:
        """The call was made ``times`` in a row, with the outcome it had before unless :meth:`outcome` says otherwise."""
        if track.fresh:
            track.fresh = False
            if track.kin is None or track.kin.members < 2:
                self._novel += 1
                self._idle = 0
        self.steps += times
        self._count(track, times, self.steps)
        recent = self._recent
        if times == 1:
            recent.append(track)
        else:
            recent.extend([track] * min(times, self._kept))
        if len(recent) > 4 * self._kept:
            del recent[: -self._kept]

    def saw_all(self, tracks: Sequence[CallTrack]) -> None:
        """These calls, made before, were made again in this order, and all were hits.

        The same as :meth:`saw` for each, at a tenth of the price: hits tell nothing new, so nothing came between them.
        """
        if len(tracks) <= EVIDENCE:
            for track in tracks:
                self.saw(track)
            return
        self.steps += len(tracks)
        now = self._learned, self._written, self._novel
        for track, times in Counter(tracks).items():
            if track.kin is None and track.units and now == (track.learned, track.written, track.novel):
                # the usual case, written out: nothing has come since this call was made last
                track.units += FULL * times
                track.count += times
                track.last_step = self.steps
                track.seen.append((track, self.steps))
                if track.plain:
                    self._idle += times if track.count > times + 1 else times - 1
                left = FULL * track.limit - track.units
                if left < self._closest:
                    self._closest = left
            else:
                self._count(track, times, self.steps)
        self._recent.extend(tracks[-self._kept :])
        if len(self._recent) > 4 * self._kept:
            del self._recent[: -self._kept]

    def _count(self, track: CallTrack, times: int, step: int) -> None:
        if track.plain and track.count:
            self._idle += max(0, times - max(0, 2 - track.count))
        track.add(track, times, step, self._learned, self._written, self._novel)
        left = track.left
        kin = track.kin
        if kin is not None:
            kin.add(track, times, step, self._learned, self._written, self._novel)
            left = min(left, kin.left)
        if left < self._closest:
            self._closest = left

    def outcome(self, track: CallTrack, outcome: Outcome, stamp: Hashable, *, hit: bool = False) -> bool:
        """The call turned out like this; whether that is progress: a new outcome, or a moved stamp.

        ``stamp`` is what the read depended on; ``None`` when it is not known (then it counts as moved). A ``hit`` was
        answered without being executed.
        """
        before, track.last = track.last, outcome
        moved = stamp is None or stamp != track.stamp
        track.outcome, track.stamp = outcome.exact, stamp
        changed = before is not None and not outcome.same_as(before)
        known = track.memory.knows(outcome.answer()) and outcome.exact is not None
        akin = self._of_kin(track, outcome)
        news = changed or (before is None and not akin and not known)
        learned = self._learned
        for series in (track, track.kin):
            if series is not None:
                series.answered(hit)
                self._closest = min(self._closest, series.left)
        if changed or (before is not None and moved):
            track.restart()
            self._changed_at = self.steps - 1
        if news:
            self._learn(track)
            self._idle = 0
        if outcome.error is not None:
            track.memory.failure(track, outcome, track.last_step, learned, self._written)
            track.memory.learned = self._learned
        else:
            track.memory.success()
            if outcome.write and (changed or before is None):
                self._wrote(track)
        return changed or (before is not None and moved)

    def _of_kin(self, track: CallTrack, outcome: Outcome) -> bool:
        """Whether a call of its kin had this outcome; if they had another one, their series begins anew."""
        kin = track.kin
        if kin is None:
            return False
        before, kin.last = kin.last, outcome
        if before is None:
            return False
        same = outcome.same_as(before)
        if not same:
            kin.restart()
        return same

    def _learn(self, track: CallTrack) -> None:
        """Something came that was not known. To the call that brought it, it is nothing that came in between."""
        for series in (track, track.kin):
            if series is not None and series.learned == self._learned:
                series.learned += 1
        self._learned += 1

    def _wrote(self, track: CallTrack) -> None:
        """A write that had not been made before, or did not turn out so. Again, this is no news to itself."""
        for series in (track, track.kin):
            if series is not None and series.written == self._written:
                series.written += 1
        self._written += 1
        self._idle = 0

    def progress(self, track: CallTrack) -> None:
        """Something this call depends on was written: it starts over."""
        track.forget()
        if track.kin is not None:
            track.kin.forget()
        track.memory.success()
        self._idle = 0
        self._changed_at = self.steps

    def new_turn(self) -> None:
        """The user spoke: all starts over, the budget too."""
        for track in self._tracks.values():
            track.retire()
        self._start()

    def close(self) -> None:
        """It is asked nothing any more: leaves nothing to the collector of cycles, for those who keep many in a row."""
        series: Iterable[Series] = (*self._tracks.values(), *self._kins.values())
        for each in series:
            each.seen.clear()
        for memory in self._tools.values():
            memory.seen.clear()
        self._start()

    # -- what it means ---------------------------------------------------------------------------------------------------

    def verdict(self, track: CallTrack, outcome: Outcome | None = None) -> Finding | None:
        """What making this call now would be; None when it is fine.

        ``outcome`` is how it turned out, where it has been made already: a new one is no loop.
        """
        return (
            self._repeated(track, outcome)
            or self._failing(track, outcome)
            or self._standing(track, outcome)
            or self._spent(track)
        )

    def _repeated(self, track: CallTrack, outcome: Outcome | None) -> Finding | None:
        if _fits(outcome, track.last):
            if track.left <= 0:
                return self._repeat(track, track, track.key)
            cycle = self._cycle(track)
            if cycle is not None:
                return cycle
        kin = track.kin
        if kin is not None and kin.members > 1 and kin.left <= 0 and _fits(outcome, kin.last):
            return self._repeat(kin, track, ("kin", id(kin)))
        return None

    def _failing(self, track: CallTrack, outcome: Outcome | None) -> Finding | None:
        memory = track.memory
        if memory.error is None or not _fits(outcome, memory.error):
            return None
        if not memory.fails_on(track, self._error_limit(track), self._learned, self._written):
            return None
        event = self._event("error", track, 0, memory.count, memory.seen, memory.error)
        return Finding(event, ("error", track.tool))

    def _standing(self, track: CallTrack, outcome: Outcome | None) -> Finding | None:
        if self._idle < self.policy.idle_calls or track.count < 2 or not track.plain or not _fits(outcome, track.last):
            return None
        return Finding(self._event("no_progress", track, 0, self._idle, self._last(EVIDENCE)), "no_progress")

    def _spent(self, track: CallTrack) -> Finding | None:
        if self.steps < self.policy.max_execution_depth:
            return None
        budget = self.policy.max_execution_depth
        return Finding(self._event("depth", track, 0, budget, self._last(EVIDENCE)), "depth")

    def headroom(self) -> int:
        """How many further calls, whatever they are, cannot trip anything."""
        if self._closest <= FULL and self.steps >= self._recount_at:
            # counts that fell since are seen here; every 64 steps at most, so it costs O(1) per call
            self._recount_at = self.steps + 64
            series: Iterable[Series] = (*self._tracks.values(), *self._kins.values())
            self._closest = min([FULL * self.policy.max_tool_repeats, *(each.left for each in series)])
        room = min(
            self.policy.max_execution_depth - self.steps,
            -(-self._closest // FULL),
            self.policy.idle_calls - self._idle,
        )
        if self._window:
            for period in _PERIODS:
                room = min(room, period * (self._turns - 1) - self._matched(period))
        return max(0, room)

    def _error_limit(self, track: CallTrack) -> int:
        if track.limit == self.policy.max_tool_repeats:
            return self.policy.error_repeats
        return track.limit + 1

    def _repeat(self, series: Series, track: CallTrack, pattern: Hashable) -> Finding:
        return Finding(
            self._event("repeat", track, 1, series.count, series.seen, track.last, series.first_step), pattern
        )

    def _cycle(self, track: CallTrack) -> Finding | None:
        recent = self._recent
        for period in _PERIODS if self._window else ():
            if len(recent) < period or recent[-period] is not track:
                continue
            matched = self._matched(period)
            turn = recent[-period:]
            if matched < period * (self._turns - 1) or _shorter(turn) or not all(each.plain for each in turn):
                continue
            kind: LoopKind = "alternation" if period == 2 else "cycle"
            seen = self._last(min(EVIDENCE, period * self._turns))
            first = self.steps - matched - period + 1
            event = self._event(kind, track, period, 1 + matched // period, seen, None, first)
            return Finding(event, frozenset(each.key for each in turn))
        return None

    def _matched(self, period: int) -> int:
        """How many of the last calls equal the one ``period`` before them, up to what makes a cycle.

        One call again and again is no cycle. Nor is what reaches back behind a change.
        """
        recent = self._recent
        span = min(len(recent), self.steps - self._changed_at)
        limit = min(span - period, period * (self._turns - 1))
        matched = 0
        while matched < limit and recent[-1 - matched] is recent[-1 - matched - period]:
            matched += 1
        if matched and all(each is recent[-1] for each in recent[-period:]):
            return 0
        return matched

    def _last(self, count: int) -> list[tuple[CallTrack, int]]:
        calls = self._recent[-count:]
        return [(track, self.steps - len(calls) + at) for at, track in enumerate(calls, 1)]

    def _event(
        self,
        kind: LoopKind,
        track: CallTrack,
        period: int,
        count: int,
        seen: Iterable[tuple[CallTrack, int]],
        result: Outcome | None = None,
        first: int | None = None,
    ) -> LoopEvent:
        calls = tuple(ToolCall(each.tool, each.arguments, step, _shown(each)) for each, step in seen)
        first_step = calls[0].step if calls and first is None else first or 0
        said = None if result is None else result.shown()
        turn = [spell(each.tool, each.arguments) for each in (calls[-period:] if period > 1 else ())]
        return LoopEvent(
            tool=track.tool,
            arguments=track.arguments,
            kind=kind,
            period=period,
            count=count,
            calls=calls,
            first_step=max(0, first_step),
            last_step=calls[-1].step if calls else self.steps,
            hint=hint(kind, spell(track.tool, track.arguments), track.tool, count, turn, said),
        )


def _fits(outcome: Outcome | None, last: Outcome | None) -> bool:
    """Whether a call that turned out so, if that is known, brought nothing new."""
    return outcome is None or last is None or outcome.same_as(last)


def _shown(track: CallTrack) -> str | None:
    return None if track.last is None else track.last.shown()


def _shorter(turn: list[CallTrack]) -> bool:
    """Whether this is one call, or a shorter cycle seen again."""
    size = len(turn)
    return any(
        size % period == 0 and all(turn[at] is turn[at % period] for at in range(size)) for period in range(1, size)
    )
