"""What events tell: figures over time, ages, what dropped what, loops with their evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent_cache.events.lines import LABEL, Recorded
from agent_cache.model import CallEvent, InvalidationEvent, LoopEvent
from agent_cache.pages import Drop, LoopShown, ShownCall
from agent_cache.reporting.timeline import OTHERS, Timeline

__all__ = ["Told"]

_FIGURES: dict[str, tuple[str, ...]] = {
    "hit": ("hits",),
    "revalidated": ("hits",),
    "stale_served": ("hits", "stale_served"),
    "miss": ("misses",),
    "stale": ("misses", "stale"),
    "expired": ("misses", "expired"),
    "blocked": ("misses",),
    "coalesced": ("coalesced",),
    "bypass": ("bypasses",),
}
_MOST_WRITERS = 1_000
_MOST_LOOPS = 1_000
_MOST_RESOURCES = 50
_HAND = ".invalidate"
_LoopKey = tuple[str | None, str, str, int, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Writer:
    times: int = 0
    failed: int = 0
    no_effect: int = 0
    last: float | None = None
    resources: Counter[str] = field(default_factory=Counter[str])
    notes: dict[str, None] = field(default_factory=dict[str, None])
    reads: Counter[str] = field(default_factory=Counter[str])


class Told:
    """Takes events one by one; memory is bounded by the number of tools, not of events."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.events = 0
        self.not_served = 0
        """Reads that were replayed or only measured."""
        self.loop_count = 0
        self._writers: dict[str | None, _Writer] = {}
        self._loops: dict[_LoopKey, LoopShown] = {}

    def all(self, events: Iterable[Recorded]) -> Told:
        for recorded in events:
            event = recorded.event
            self.events += 1
            if isinstance(event, CallEvent):
                self._call(recorded.at, event)
            elif isinstance(event, InvalidationEvent):
                self._write(recorded.at, event)
            elif isinstance(event, LoopEvent):
                self._loop(recorded.at, event)
        return self

    def _call(self, at: float, event: CallEvent) -> None:
        names = _FIGURES.get(event.outcome)
        if names is None:
            self.not_served += 1
            return
        if event.outcome == "stale_served" and event.reason == "stale_if_error":
            names = ("misses", "stale_served", "failures")  # the tool ran, and failed
        amounts = dict.fromkeys(names, 1.0)
        if event.failed and "hits" not in names:
            amounts["failures"] = 1.0
        amounts["seconds_saved"], amounts["cost_saved"] = event.seconds_saved, event.cost_saved
        self.timeline.add(event.tool, at, amounts)
        if event.age is not None and "hits" in names:
            self.timeline.age(event.tool, event.age)
        if event.outcome == "stale":
            self._writer(event.dropped_by).reads[event.tool] += 1

    def _write(self, at: float, event: InvalidationEvent) -> None:
        self.timeline.add(event.tool, at, {"writes": 1.0})
        writer = self._writer(event.tool)
        writer.times += 1
        writer.failed += event.failed
        writer.no_effect += event.no_effect
        writer.last = at if writer.last is None else max(at, writer.last)
        moved = [tag[4:-1] if tag.endswith(")") else tag[4:] for tag in event.tags if tag.startswith("all(")]
        for resource in moved or [event.resource]:
            if resource and (resource in writer.resources or len(writer.resources) < _MOST_RESOURCES):
                writer.resources[resource] += 1
        if event.reason is not None and len(writer.notes) < 3:
            writer.notes[event.reason] = None

    def _writer(self, name: str | None) -> _Writer:
        if name is not None and name.endswith(_HAND):
            name = name.removesuffix(_HAND)  # by hand; its event names the tool
        if name not in self._writers and len(self._writers) >= _MOST_WRITERS:
            name = OTHERS
        return self._writers.setdefault(name, _Writer())

    def _loop(self, at: float, event: LoopEvent) -> None:
        self.loop_count += 1
        self.timeline.add(event.tool, at, {"loops": 1.0})
        key = (event.session_id, event.tool, event.kind, event.period, tuple(sorted(event.arguments.items())))
        before = self._loops.get(key)
        if before is None and len(self._loops) >= _MOST_LOOPS:
            return
        shown = LoopShown(
            tool=event.tool, kind=event.kind, count=event.count, period=event.period, at=at, session=event.session_id,
            where=f"Calls {event.first_step} to {event.last_step} of the turn", hint=event.hint or None,
            calls=tuple(ShownCall(call.tool, spelt(call.arguments), call.step, call.outcome) for call in event.calls),
        )  # fmt: skip
        self._loops[key] = shown if before is None else replace(shown, times=before.times + 1)

    def drops(self) -> tuple[Drop, ...]:
        return tuple(
            Drop(name, w.times, tuple(sorted(w.resources, key=lambda r: (-w.resources[r], r))), dict(w.reads), w.failed,
                 w.no_effect, w.last, tuple(w.notes))
            for name, w in self._writers.items()
        )  # fmt: skip

    def loops(self) -> tuple[LoopShown, ...]:
        """The newest first."""
        return tuple(sorted(self._loops.values(), key=lambda loop: -(loop.at or 0.0)))


def spelt(arguments: Mapping[str, str]) -> str:
    """Arguments, or the label that stands for them."""
    if arguments.keys() == {LABEL}:
        return f"{LABEL}{arguments[LABEL]}"
    return ", ".join(f"{name}={value}" for name, value in arguments.items()) or "no arguments"
