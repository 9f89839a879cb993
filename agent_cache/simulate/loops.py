"""The loop detector, asked about each session of a trace. Sessions may be interleaved; the least recent is given up for room."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agent_cache.engine.guard import call_key, failure, kinship, returned, shown
from agent_cache.loops import LoopDetector, LoopPolicy, ToolRule
from agent_cache.model import LoopEvent
from agent_cache.simulate.tally import LoopFound, Report
from agent_cache.simulate.traffic import Call, hashed

__all__ = ["LoopWatch"]

_MAX_OPEN = 256
_MAX_FOUND = 1_000
_MAX_LEFT = 100_000
_MAX_STEPS = 1 << 40  # the budget of calls is the user's own affair: it says nothing about a loop


@dataclass(slots=True)
class _Watched:
    detector: LoopDetector
    steps: int = 0
    found: LoopEvent | None = None
    found_at: int = 0


class LoopWatch:
    """Feeds the calls of each session to a detector of its own, and reports the first loop of each."""

    def __init__(self, report: Report, max_tool_repeats: int) -> None:
        self._report = report
        self._policy = LoopPolicy(max_tool_repeats=max_tool_repeats, max_execution_depth=_MAX_STEPS)
        self._open: OrderedDict[str, _Watched] = OrderedDict()
        self._left: set[int] = set()
        self.given_up = 0
        """Sessions that went on after they had been given up: what they had done before is not known any more."""

    def call(self, call: Call, *, write: bool, poll: bool) -> None:
        """A call with its answer; where the answer is not known, nothing can be said of it."""
        watched = self._watched(call.session)
        watched.steps += 1
        if watched.found is not None or call.result is None:
            return
        text = call.shown if call.whole else f"{call.shown} {call.result:x}"
        outcome = failure(text or "error", write=write) if call.raised else returned(text, write=write)
        detector = watched.detector
        track = detector.track(
            call_key(call.tool, call.arguments),
            call.tool,
            lambda: (shown(call.arguments), kinship(call.arguments)),
            ToolRule(poll=poll),
        )
        if call.batch is not None and track.tick == call.batch:  # several equal ones made at once are one
            return
        track.tick = call.batch
        finding = detector.verdict(track, outcome)
        if finding is not None:
            watched.found, watched.found_at = finding.event, watched.steps
        detector.saw(track)
        detector.outcome(track, outcome, ())

    def spoke(self, session: str) -> None:
        """The user spoke: an honest repetition starts over."""
        watched = self._open.get(session)
        if watched is not None:
            watched.detector.new_turn()

    def ended(self, session: str) -> None:
        watched = self._open.pop(session, None)
        if watched is not None:
            self._close(session, watched)

    def all_ended(self) -> None:
        for session in list(self._open):
            self.ended(session)

    def _watched(self, name: str) -> _Watched:
        watched = self._open.get(name)
        if watched is None:
            watched = self._open[name] = _Watched(LoopDetector(self._policy))
            if (known := hashed(name)) in self._left:
                self._left.remove(known)
                self.given_up += 1
            if len(self._open) > _MAX_OPEN:
                oldest, given_up = self._open.popitem(last=False)
                if len(self._left) < _MAX_LEFT:
                    self._left.add(hashed(oldest))
                self._close(oldest, given_up)
        else:
            self._open.move_to_end(name)
        return watched

    def _close(self, name: str, watched: _Watched) -> None:
        event = watched.found
        watched.detector.close()
        if event is None:
            return
        self._report.loop_count += 1
        wasted = watched.steps - watched.found_at + 1
        self._report.loop_calls += wasted
        if len(self._report.loops) < _MAX_FOUND:
            found = LoopFound(name, watched.found_at, event.kind, event.tool, event.count, wasted, event.hint)
            self._report.loops.append(found)
