"""A read in shadow mode: the tool runs, always and alone; the cache says what it would have done, and learns.

What is found stays as it is, so that an answer that has gone stale is counted as often as it would have been served. What
is missing is stored under its token, like any load. Nothing here is ever given to a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from agent_cache.backends.base import Blocked, Found, Lookup, Missing
from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.answers import Answer, Report
from agent_cache.engine.asking import ask
from agent_cache.engine.calls import ReadCall, Shadowed
from agent_cache.engine.comparing import differs
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down
from agent_cache.engine.guard import Watch, settle, writes_so_far
from agent_cache.engine.loads import load_line
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import UnstorableResultError
from agent_cache.flight import Landed
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Outcome
from agent_cache.tags import call_path

__all__ = ["shadow_read"]

Alone = Callable[[ReadTool, View, Callable[[], Line[Landed]]], Line[Landed]]


class _UnderWay:
    """The misses under way, by what a load would be shared under."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._loads: dict[Hashable, int] = {}

    def enter(self, load: Hashable) -> bool:
        """Whether another is under way already."""
        with self._lock:
            others = self._loads.get(load, 0)
            self._loads[load] = others + 1
            return others > 0

    def leave(self, load: Hashable) -> None:
        with self._lock:
            left = self._loads[load] - 1
            if left:
                self._loads[load] = left
            else:
                del self._loads[load]


_UNDER_WAY = _UnderWay()


def shadow_read(
    tool: ReadTool, view: View, values: tuple[Any, ...], why: Shadowed, watch: Watch | None, alone: Alone
) -> Line[tuple[Answer, Report]]:
    """Look, run, compare, count. ``alone`` runs a load that nobody shares."""
    call = why.call
    view.count(tool.resource, "bypasses", reason=why.reason)
    found = yield from ask(tool, view, call, view.mode == "refresh")
    would = _would_serve(tool, found)
    log = settings.shadow
    began = log.now() if log is not None else 0.0
    load = (id(call.backend), call.key, found.token) if isinstance(found, Missing) and would is None else None
    shared = load is not None and _UNDER_WAY.enter(load)
    try:
        landed = yield from alone(tool, view, _load(tool, view, values, call, found, shared=shared))
    finally:
        if load is not None:
            _UNDER_WAY.leave(load)
    if landed.error is not None:
        view.count(tool.resource, "load_failures")
    if watch is not None:
        settle(watch, landed, writes_so_far(watch))
    outcome, reason = yield from _judged(tool, view, call, found, would, landed, shared=shared)
    if log is not None:
        paths = (*_paths(tool, values), call_path(call.cache_key))
        given = {k.name: values[k.index] for k in tool.shape.keyed}
        log.read(tool.name, given, call.key, paths, _print_of(tool, landed), began)
    age = would.age if would is not None else None
    return Answer(landed.value, landed.error), Report(outcome, reason, age=age, landed=landed)


def _would_serve(tool: ReadTool, found: Lookup | Down) -> Found | None:
    """What the cache would have answered with."""
    if isinstance(found, Found):
        return found
    fresh = tool.policy.freshness
    if fresh is None or not isinstance(found, Missing) or found.kept is None or found.kept.ttl_left is None:
        return None
    return found.kept if -found.kept.ttl_left <= fresh.stale_while_revalidate else None


def _load(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, found: Lookup | Down, *, shared: bool
) -> Callable[[], Line[Landed]]:
    if isinstance(found, Missing) and not shared:
        token = found.token
        return lambda: load_line(tool, view, values, call, token, None, alone=True)
    return lambda: load_line(tool, view, values, None, None)


def _judged(
    tool: ReadTool,
    view: View,
    call: ReadCall,
    found: Lookup | Down,
    would: Found | None,
    landed: Landed,
    *,
    shared: bool,
) -> Line[tuple[Outcome, str | None]]:
    """What the cache would have done, counted; and why not more."""
    if would is None:
        outcome: Outcome = "would_coalesce" if shared else "would_miss"
        reason = _why_not(found)
        view.count(tool.resource, outcome)
        return outcome, reason
    for metrics in view.metrics:
        metrics.would_hit(tool.resource, landed.seconds, tool.policy.cost)
    other = differs(tool, would.stored, landed)
    if other is None:
        return "would_hit", "uncompared"
    if not other:
        return "would_hit", None
    if (yield from _written_meanwhile(tool, call, would)):
        return "would_hit", "write_overlapped"
    view.count(tool.resource, "would_be_stale")
    text = (
        "%s: in shadow mode, a stored answer was not what the tool answers, and no write that is known came in between"
    )
    settings.notices.once((tool.identity, "would_be_stale"), text, tool.name)
    return "would_be_stale", None


def _why_not(found: Lookup | Down) -> str:
    if isinstance(found, Blocked):
        return "write_in_progress"
    if isinstance(found, Down):
        return "backend_error"
    return found.why if isinstance(found, Missing) else "uncompared"


def _written_meanwhile(tool: ReadTool, call: ReadCall, would: Found) -> Line[bool]:
    """Whether a write that is known of began while the tool ran: then nobody knows from when its answer is."""
    if call.mark is not None and not call.mark.holds:
        return True
    now: Lookup | Down = yield Ask(call, tool.codec, token_only=True)
    return not isinstance(now, Missing) or now.token.stamp != would.stamp


def _paths(tool: ReadTool, values: tuple[Any, ...]) -> tuple[tuple[str, ...], ...]:
    if tool.policy.fixed_paths is not None:
        return tool.policy.fixed_paths
    arguments = tool.shape.arguments(values)
    return tuple(template.fill(arguments)[0] for template in tool.policy.resources)


def _print_of(tool: ReadTool, landed: Landed) -> Hashable:
    """Equal for equal results; None for those of which nothing is known, or that are meant to change."""
    if landed.error is not None or tool.policy.loop.poll:
        return None
    try:
        if landed.stored is None:
            landed.stored = tool.codec.freeze(landed.value, MAX_ENTRY_BYTES)
        return landed.stored.fingerprint()
    except UnstorableResultError:
        return None
