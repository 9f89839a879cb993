"""Answers beyond their freshness, and answers renewed before its end: the part of the read line that decides on them.

Only what a lookup gave as expired is ever served: its stamp is current, so no write has dropped it. Where time has passed
since (a load failed, or takes long) the backend is asked again first. Loads are begun and waited for in :mod:`.behind`,
what they bring is kept by :mod:`.loads`.
"""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from agent_cache.backends.base import Found, Lookup, Missing, Token
from agent_cache.codecs import Failure
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.answers import Answer, Report, own
from agent_cache.engine.behind import Board, Boarded, Spawn, WaitOn
from agent_cache.engine.calls import ReadCall
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down, Flown
from agent_cache.engine.guard import Watch, served, served_error, settle
from agent_cache.engine.loads import load_line
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import AgentLoopDetectedError, LoadTimeoutError, UnstorableResultError
from agent_cache.flight import Landed
from agent_cache.freshness import Freshness, retry_after
from agent_cache.locks import renewed_after_fork
from agent_cache.recorded import TALLY

__all__ = [
    "RESTS",
    "Limits",
    "after_load",
    "before_load",
    "early_by",
    "flown_within",
    "pass_through",
    "refresh_early",
    "timed_out",
]

_chance = random.Random()  # noqa: S311 - of our own, as in loads
_FIRST_REST = 1.0  # seconds for which nothing is refreshed in the background after that failed
_MOST_RESTS = 4_096
_clock = time.monotonic
_wall = time.time
_never_hidden: list[type[BaseException]] = [AgentLoopDetectedError]


def pass_through(*kinds: type[BaseException]) -> None:
    """Errors that are said to whoever runs the agent, and are no failure of the source (a framework's control flow): no
    stale answer takes their place."""
    _never_hidden.extend(kind for kind in kinds if kind not in _never_hidden)


class _Rests:
    """Until when a source asked, or is given, not to be bothered for a call. Bounded; the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._until)

    def begin(self, call: ReadCall, seconds: float) -> None:
        with self._lock:
            self._until[id(call.backend), call.key] = _clock() + seconds
            if len(self._until) > _MOST_RESTS:
                self._until.popitem(last=False)

    def rests(self, call: ReadCall) -> bool:
        until = self._until.get((id(call.backend), call.key))
        if until is None:
            return False
        if _clock() < until:
            return True
        with self._lock:
            self._until.pop((id(call.backend), call.key), None)
        return False

    def forget(self) -> None:
        with self._lock:
            self._until.clear()


RESTS = _Rests()


@dataclass(slots=True, eq=False)
class Limits:
    """What is left of a caller's patience, in seconds; None: he waits."""

    soft: float | None
    hard: float | None
    waited: float = 0.0

    def next(self, *, lasting: bool) -> float | None:
        """How long to wait until one of them has come. The soft one is for loads of which a stale answer can take the place."""
        limit = self.soft if self.soft is not None and lasting else self.hard
        return None if limit is None else max(0.0, limit - self.waited)


# -- before a load -------------------------------------------------------------------------------------------------------


def before_load(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, found: Lookup | Down, watch: Watch | None
) -> Line[tuple[Answer, Report] | None]:
    """What can be answered at once beside a fresh value: a stored error; or the expired answer, while another is loaded
    in the background or its source asked to be left alone."""
    if isinstance(found, Found):
        return _negative(tool, view, call, found, watch)
    fresh = tool.policy.freshness
    if fresh is None or not isinstance(found, Missing) or found.kept is None or found.kept.ttl_left is None:
        return None
    kept, over = found.kept, -found.kept.ttl_left
    resting = bool(RESTS) and RESTS.rests(call)
    if over <= fresh.stale_while_revalidate:
        answer = _answered(tool, view, call, kept, watch, "stale_while_revalidate")
        if answer is not None and not resting:
            yield from _refresh(tool, view, values, call, found.token, kept)
        return answer
    if resting and over <= fresh.stale_if_error:
        return _answered(tool, view, call, kept, watch, "stale_if_error")
    return None


def early_by(fresh: Freshness, found: object) -> float:
    """Seconds before the end of freshness at which this look would refresh (Vattani et al., VLDB 2015).

    Drawn anew at each look: the more looks and the dearer the load, the earlier one of them refreshes, and seldom two.
    """
    if not fresh.early_refresh or not isinstance(found, Found) or found.ttl_left is None:
        return 0.0
    return -fresh.early_refresh * found.load_seconds * math.log(1.0 - _chance.random())


def refresh_early(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, found: Found, early: float
) -> Line[None]:
    """Load in the background what is still fresh, if its time has come."""
    if found.ttl_left is None or found.ttl_left > early or (RESTS and RESTS.rests(call)):
        return
    asked: Lookup | Down = yield Ask(call, tool.codec, token_only=True)
    if isinstance(asked, Missing) and asked.token.stamp == found.stamp:
        view.count(tool.resource, "early_refreshes")
        yield from _refresh(tool, view, values, call, asked.token, None)


def _refresh(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, token: Token, kept: Found | None
) -> Line[None]:
    def line() -> Line[Landed]:
        landed = yield from load_line(tool, view, values, call, token, kept, alone=kept is None)
        _told_of(tool, view, call, landed)
        return landed

    begun: bool = yield Spawn((id(call.backend), call.key), token, line)
    if begun:
        view.count(tool.resource, "refreshes")


def _told_of(tool: ReadTool, view: View, call: ReadCall, landed: Landed) -> None:
    """Nobody may be there to hear of a load in the background: what became of it."""
    if landed.revalidated:
        view.count(tool.resource, "revalidated")
    if landed.kept or landed.is_abandoned or landed.refused in ("fenced_out", "own_write"):
        return
    if landed.error is None:  # what it brought is not to be had from the store: the next one would bring no more
        RESTS.begin(call, _FIRST_REST)
        return
    view.count(tool.resource, "refresh_failures", reason=type(landed.error).__name__)
    RESTS.begin(call, max(_FIRST_REST, retry_after(landed.error, _wall) or 0.0))
    text = "%s: it could not be refreshed in the background (%r); its last answer is served while that is allowed"
    settings.notices.once((tool.identity, "refresh"), text, tool.name, landed.error)


# -- after a load, or in the middle of one -------------------------------------------------------------------------------


def after_load(
    tool: ReadTool,
    view: View,
    call: ReadCall,
    landed: Landed,
    watch: Watch | None,
    token: Token | None,
    *,
    led: bool,
) -> Line[tuple[Answer, Report] | None]:
    """What is answered in place of what a load brought: the last answer for an error; and of what was not run at all."""
    if landed.error is not None:
        instead = yield from _instead_of(tool, view, call, landed.error, watch, "stale_if_error")
        if instead is not None and led:
            view.count(tool.resource, "misses")
            if TALLY.on:
                TALLY.missed(tool.name, "failed", None)
            view.count(tool.resource, "load_failures")
        return instead
    if not landed.revalidated or not led or landed.stored is None:
        return None
    view.count(tool.resource, "revalidated")
    for metrics in view.metrics:
        metrics.hit(tool.resource, landed.seconds, tool.policy.cost)
    if TALLY.on:
        TALLY.hit(tool.name, landed.seconds, tool.policy.cost, 0.0)
    if watch is not None:
        served(watch, landed.stored, call.depends_on(token.stamp) if token is not None else ())
    return Answer(landed.value, hit=True), Report("revalidated", landed=landed, saved=landed.seconds)


def _instead_of(
    tool: ReadTool, view: View, call: ReadCall, error: BaseException | None, watch: Watch | None, why: str
) -> Line[tuple[Answer, Report] | None]:
    """The last answer in place of a failure (or of more patience), while it may be that stale and no write dropped it."""
    fresh = tool.policy.freshness
    if fresh is None or not fresh.stale_if_error:
        return None
    if error is not None:
        hidden = isinstance(error, Exception) and not isinstance(error, tuple(_never_hidden))
        if not hidden or type(error) in fresh.errors:
            return None
    if OUTBOX.owes(call.backend) or (call.mark is not None and not call.mark.holds):
        return None
    found: Lookup | Down = yield Ask(call, tool.codec)
    if isinstance(found, Found) and not isinstance(found.stored, Failure):  # loaded by another meanwhile
        return _answered(tool, view, call, found, watch, None)
    if not isinstance(found, Missing) or found.kept is None or found.kept.ttl_left is None:
        return None
    if -found.kept.ttl_left > fresh.stale_if_error:
        return None
    if error is not None and (rest := retry_after(error, _wall)) is not None:
        RESTS.begin(call, rest)
    return _answered(tool, view, call, found.kept, watch, why)


@dataclass(slots=True, eq=False)
class Within:
    """How a load with limits went. ``answer``: what the caller gets who stopped waiting."""

    flown: Flown
    answer: tuple[Answer, Report] | None = None


def flown_within(
    tool: ReadTool, view: View, call: ReadCall, board: Board, limits: Limits, watch: Watch | None, *, lasting: bool
) -> Line[Within]:
    """A load that is waited for no longer than the limits say; it goes on all the same, and its result is kept."""
    line, given_up = board.line, [False]

    def watched() -> Line[Landed]:
        landed = yield from line()
        if given_up[0]:
            _told_of(tool, view, call, landed)
        return landed

    board.line = watched
    boarded: Boarded = yield board
    if boarded.flight is None:  # he may not wait for others: a load of his own, with the same limits
        boarded = yield Board(object(), None, board.arrived, watched)
    again = False
    while True:
        landed, waited = yield WaitOn(boarded, limits.next(lasting=lasting), lasting, again)
        limits.waited += waited
        if landed is not None:
            shared = boarded.share
            watched_one = None if shared else boarded.flight
            return Within(Flown(landed if shared else None, led=boarded.led, watched=watched_one))
        again = True
        instead = yield from _too_slow(tool, view, call, limits, watch, lasting=lasting)
        if instead is not None:
            given_up[0] = boarded.led
            if boarded.led:
                view.count(tool.resource, "misses")
                if TALLY.on:
                    TALLY.missed(tool.name, "slow", None)
            return Within(Flown(None), instead)


def _too_slow(
    tool: ReadTool, view: View, call: ReadCall, limits: Limits, watch: Watch | None, *, lasting: bool
) -> Line[tuple[Answer, Report] | None]:
    """A limit has come. None: wait on."""
    if limits.soft is not None and lasting:
        limits.soft = None
        return (yield from _instead_of(tool, view, call, None, watch, "soft_timeout"))
    error = timed_out(tool, view)
    instead = yield from _instead_of(tool, view, call, error, watch, "stale_if_error")
    if instead is None and watch is not None:
        settle(watch, Landed(error=error), ())
    return instead or (Answer(error=error), Report("miss", "hard_timeout", failed=True))


def timed_out(tool: ReadTool, view: View) -> LoadTimeoutError:
    fresh = tool.policy.freshness
    view.count(tool.resource, "load_timeouts")
    return LoadTimeoutError(tool.name, (fresh.hard_timeout if fresh is not None else None) or 0.0)


# -- answers -------------------------------------------------------------------------------------------------------------


def _negative(
    tool: ReadTool, view: View, call: ReadCall, found: Found, watch: Watch | None
) -> tuple[Answer, Report] | None:
    """A stored error, raised as the tool raised it. None if what is stored is a value, or cannot be read."""
    stored = found.stored
    if not isinstance(stored, Failure):
        return None
    try:
        error = stored.error()
    except UnstorableResultError:
        return None
    view.count(tool.resource, "negative_hits")
    for metrics in view.metrics:
        metrics.hit(tool.resource, found.load_seconds, tool.policy.cost)
    if TALLY.on:
        TALLY.hit(tool.name, found.load_seconds, tool.policy.cost, found.age)
    if watch is not None:
        served_error(watch, error, call.depends_on(found.stamp))
    return Answer(error=error, hit=True), Report(
        "hit", "negative", age=found.age, failed=True, saved=found.load_seconds
    )


def _answered(
    tool: ReadTool, view: View, call: ReadCall, found: Found, watch: Watch | None, why: str | None
) -> tuple[Answer, Report] | None:
    """``why``: None for an answer that is fresh."""
    answer = own(found.stored)
    if answer is None:
        return None
    if why is not None:
        view.count(tool.resource, "stale_served", reason=why)
    saved = found.load_seconds if why in (None, "stale_while_revalidate") else None
    if saved is not None:
        for metrics in view.metrics:
            metrics.hit(tool.resource, saved, tool.policy.cost)
        if TALLY.on:
            TALLY.hit(tool.name, saved, tool.policy.cost, found.age)
    if watch is not None:
        served(watch, found.stored, call.depends_on(found.stamp))
    answer.hit = True
    return answer, Report("hit" if why is None else "stale_served", why, age=found.age, saved=saved)
