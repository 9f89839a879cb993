"""The load line: take the lead where other processes share the backend, run the tool, store what it returned.

What may be stored is decided here; who shares a load is the read line's and the flights' business.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from agent_cache.backends.base import Found, Lead, Leading, Lookup, Missing, NewEntry, Taken, Token, is_leading
from agent_cache.bounds import MAX_ENTRY_BYTES, refuse_larger
from agent_cache.codecs import Failure, Stored
from agent_cache.config import settings
from agent_cache.context import View, current_view
from agent_cache.engine.calls import ReadCall, same_call
from agent_cache.engine.dependencies import LoadNotes, proven
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Claim, Down, Fill, Pause, Ran, Run, filled
from agent_cache.engine.lasting import Terms, error_terms, marked, source_version, still_holds, value_terms
from agent_cache.engine.outages import READING, STORING, backend_failed, backend_worked
from agent_cache.engine.tools import ReadTool, readable
from agent_cache.errors import UnstorableResultError
from agent_cache.flight import Landed
from agent_cache.policy import decided

__all__ = ["load_line"]

_LONGEST_WAIT = 10.0  # seconds for which another process's load is waited for
_FIRST_PAUSE = 0.004
_MOST_REFUSALS = 2
_MOST_LOOKS = 8  # of one load: a store that loses its tags as fast as they are made is not asked for ever
_chance = random.Random()  # noqa: S311 - of our own: a program that seeds the common one is not to be disturbed
_LONGEST_PAUSE = 0.05


def load_line(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall | None,
    token: Token | None,
    kept: Found | None = None,
    *,
    alone: bool = False,
) -> Line[Landed]:
    """Run the tool, see whether its result can be stored, and store it if the token still holds.

    Where other processes share the backend, one of them runs it and the others wait for what it stores; not with
    ``alone``. ``kept``: the expired answer that a validator may make fresh again instead.
    """
    if call is not None and token is not None and not alone and is_leading(call.backend):
        return _led_load(tool, view, values, call, call.backend, token, kept)
    return _load(tool, view, values, call, token, None, kept)


def _led_load(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    backend: Leading,
    token: Token,
    kept: Found | None,
) -> Line[Landed]:
    turn = yield from _our_turn(tool, view, call, backend, token)
    if isinstance(turn, Landed):
        return turn
    still, lead = turn
    landed: Landed | None = None
    try:
        landed = yield from _load(tool, view, values, call, still, lead, kept)
        return landed
    finally:
        gave_it_back = landed is not None and (landed.kept or landed.refused == "fenced_out")
        if lead is not None and not gave_it_back:
            backend.release(lead)


def _our_turn(
    tool: ReadTool, view: View, call: ReadCall, backend: Leading, token: Token
) -> Line[Landed | tuple[Token | None, Lead | None]]:
    """The lead; or what another process stored meanwhile; or, after 10 seconds or 8 looks, leave to load without it.

    A token found on the way is newer than the one those who ride this flight hold, so what is loaded or found
    under it is fit for them.
    """
    waited, pause, refusals, looks = 0.0, _FIRST_PAUSE, 0, 0
    while True:
        lead: Lead | Taken | Down = yield Claim(call, backend, token)
        if isinstance(lead, Down):
            return token, None
        if not isinstance(lead, Taken):
            return token, lead
        if not lead.again:
            if waited >= _LONGEST_WAIT:
                return token, None
            delay = pause * _chance.uniform(0.5, 1.5)
            yield Pause(delay)
            waited, pause = waited + delay, min(pause * 1.5, _LONGEST_PAUSE)
            continue
        looks += 1
        if looks > _MOST_LOOKS:
            return token, None
        found: Lookup | Down = yield Ask(call, tool.codec)
        if isinstance(found, Found):
            try:
                if isinstance(found.stored, Failure):
                    return Landed(error=found.stored.error(), kept=True, elsewhere=True)
                return Landed(found.stored.fresh(), found.stored, kept=True, elsewhere=True, age=found.age)
            except UnstorableResultError as error:
                text = "%s: a stored value cannot be read: %r"
                settings.notices.once(("unreadable", tool.identity), text, tool.name, error)
                return None, None
        if isinstance(found, Missing):
            if found.token == token:
                refusals += 1  # what stands there is current and cannot be read: it has to be replaced
                if refusals > _MOST_REFUSALS:
                    return token, None
            token = found.token
            continue
        if isinstance(found, Down):
            backend_failed(view, tool.resource, call.backend, found.error, READING)
        return None, None  # a write is running, or the backend is away: load, keep nothing


def _load(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall | None,
    token: Token | None,
    lead: Lead | None,
    kept: Found | None,
) -> Line[Landed]:
    fresh, mark = tool.policy.freshness, None
    if fresh is not None and fresh.validator is not None and call is not None and token is not None:
        mark = yield from source_version(tool, view, fresh.validator, values)
        if kept is not None and kept.stamp == token.stamp:
            renewed = yield from _renewed(tool, view, values, call, token, lead, kept, mark)
            if renewed is not None:
                return renewed
    began = time.monotonic()
    notes = LoadNotes(call, token is not None) if call is not None else None
    ran: Ran = yield Run(tool, values, (), notes)
    error = ran.error
    # By position, here and below: on the way of every miss, where naming them costs as much as the object.
    landed = Landed(ran.value, None, error, None if error is None else error.__traceback__, time.monotonic() - began)
    if notes is not None and notes.personal:
        landed.only_in = (current_view().session,)
    if call is not None and call.mark is not None and not call.mark.holds:
        landed.only_for = call.mark.lineage  # from before the write, or after, or between: and nobody knows which
        landed.refused = "own_write"
        view.count(tool.resource, "fenced_out", reason="own_write")
        token = None
    if error is not None:
        if fresh is not None and fresh.errors and call is not None and token is not None and _is_covered(notes):
            yield from _keep_error(tool, view, values, call, token, lead, landed)
        return landed
    if call is None and view.detector is None:
        return landed
    if call is not None and not tool.shape.has_only_atoms(values) and not same_call(tool, values, call):
        landed.refused = "arguments_changed"  # while the tool ran: nobody knows what the answer is to
        view.count(tool.resource, "unstorable", reason="arguments_changed")
        return landed
    keep = call is not None and token is not None and _wanted(tool, view, ran.value, landed)
    terms: Terms | None = None
    if keep and fresh is not None and call is not None:
        terms = value_terms(tool, view, call, fresh, ran.value, landed)
        keep = terms is not None
    if not _frozen(tool, view, call, landed, mark, keep=keep) or call is None or token is None or landed.stored is None:
        return landed
    if notes is not None and notes.added is not None:
        covering = yield from _covering(tool, view, values, notes, token, lead, landed)
        if covering is None:
            return landed
        (call, token), lead = covering, None
    entry = _entry(tool, values, call, lead, landed.stored, landed.seconds, terms)
    backend = call.backend
    done: bool | Down = filled(backend, token, entry) if backend.in_process else (yield Fill(backend, token, entry))
    if done is True and not settings.notices.outages:  # as nearly always
        landed.kept = True
    else:
        _filled(tool, view, call, landed, done)
    return landed


def _frozen(
    tool: ReadTool, view: View, call: ReadCall | None, landed: Landed, mark: bytes | None, *, keep: bool
) -> bool:
    """Give what was loaded the form that others share and stores keep; whether it is to be kept."""
    try:
        stored = landed.stored = tool.codec.freeze(landed.value, MAX_ENTRY_BYTES)
        if mark is not None:
            stored = landed.stored = marked(tool, stored, mark)
        if keep and call is not None:
            # What stays in a process needs no written form, what leaves it does.
            size = stored.size if call.backend.in_process else len(stored.payload())
            limit = getattr(call.backend, "max_entry_bytes", MAX_ENTRY_BYTES)
            if size > limit:
                refuse_larger(size, limit)
    except UnstorableResultError as error:
        landed.refused = error.reason
        if call is not None:
            _unstorable(tool, view, landed, error)
        return False
    return keep


def _covering(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    notes: LoadNotes,
    token: Token,
    lead: Lead | None,
    landed: Landed,
) -> Line[tuple[ReadCall, Token] | None]:
    """The call as it is stored with what it came to depend on, and a token for all of it; None: it is not to be kept."""
    call, covering, why = yield from proven(tool, view, values, notes, token)
    landed.depends = call.extras
    if covering is None:
        landed.refused = why
        view.count(tool.resource, "fenced_out" if why == "fenced_out" else "unstorable", reason=why)
    gives_back = covering is not None or why == "fenced_out"  # it is on the call as it was known before
    if lead is not None and gives_back and is_leading(notes.call.backend):
        notes.call.backend.release(lead)
    return None if covering is None else (call, covering)


def _is_covered(notes: LoadNotes | None) -> bool:
    """Whether the load came to depend on nothing but what its token is about."""
    return notes is None or notes.added is None


def _entry(
    tool: ReadTool,
    values: tuple[Any, ...],
    call: ReadCall,
    lead: Lead | None,
    stored: Stored,
    load_seconds: float,
    terms: Terms | None,
) -> NewEntry:
    """What is stored. ``terms``: None for those of the call."""
    ttl, grace, exact = (call.ttl, 0.0, False) if terms is None else terms
    policy = tool.policy
    if ttl is not None and policy.jitter and not exact:
        ttl *= 1.0 - policy.jitter * _chance.random()
    arguments = readable(tool, values) if settings.store_args else ""
    return NewEntry(
        call.key, stored, ttl, load_seconds, tool.group, policy.maxsize, call.chain, lead, None,
        settings.namespace, grace, policy.cost, call.digest, 0.0, arguments,
    )  # fmt: skip


def _filled(tool: ReadTool, view: View, call: ReadCall, landed: Landed, done: bool | Down) -> None:
    """What became of it."""
    if isinstance(done, Down):
        if isinstance(done.error, UnstorableResultError):
            _unstorable(tool, view, landed, done.error)
        else:
            backend_failed(view, tool.resource, call.backend, done.error, STORING)
        return
    backend_worked(call.backend, STORING)
    if done:
        landed.kept = True
    else:
        landed.refused = "fenced_out"
        view.count(tool.resource, "fenced_out")


def _keep_error(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    token: Token,
    lead: Lead | None,
    landed: Landed,
) -> Line[None]:
    """Store an error that is an answer; the callers get the one that was raised."""
    fresh, error = tool.policy.freshness, landed.error
    if fresh is None or error is None or not same_call(tool, values, call):
        return
    found = error_terms(tool, view, fresh, error, landed)
    if found is not None:
        entry = _entry(tool, values, call, lead, found[0], landed.seconds, found[1])
        done = yield Fill(call.backend, token, entry)
        _filled(tool, view, call, landed, done)


def _renewed(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    token: Token,
    lead: Lead | None,
    kept: Found,
    mark: bytes | None,
) -> Line[Landed | None]:
    """The expired answer, fresh again, where the validator says that it still holds; else None: load.

    The token was made before the validator was asked: what is written meanwhile refuses the fill, as it does a load's.
    """
    fresh = tool.policy.freshness
    if fresh is None or fresh.validator is None:
        return None
    if not (yield from still_holds(tool, view, fresh.validator, values, kept, mark)):
        return None
    if call.mark is not None and not call.mark.holds:  # a write of the caller's own came in between
        return None
    try:
        landed = Landed(kept.stored.fresh(), kept.stored, revalidated=True)
    except UnstorableResultError:
        return None
    terms = value_terms(tool, view, call, fresh, landed.value, landed)
    if terms is not None:
        entry = _entry(tool, values, call, lead, kept.stored, kept.load_seconds, terms)
        done = yield Fill(call.backend, token, entry)
        _filled(tool, view, call, landed, done)
    return landed


def _unstorable(tool: ReadTool, view: View, landed: Landed, error: UnstorableResultError) -> None:
    """The callers have their answer; it is counted, and said once, that it was not kept."""
    landed.refused = error.reason
    view.count(tool.resource, "unstorable", reason=error.reason)
    text = "%s: its result is returned but not stored (%s)"
    settings.notices.once((tool.identity, error.reason), text, tool.name, error)


def _wanted(tool: ReadTool, view: View, value: Any, landed: Landed) -> bool:
    """What ``cache_if`` says. If it raises: not kept."""
    cache_if: Callable[[Any], bool] | None = tool.policy.cache_if
    if cache_if is None:
        return True
    try:
        wanted = decided(cache_if(value))
    except Exception as error:  # noqa: BLE001 - the tool has its answer; a failing predicate only means "do not keep it"
        view.count(tool.resource, "unstorable", reason="cache_if_failed")
        text = "%s: cache_if raised %r; such results are not stored"
        settings.notices.once((tool.identity, "cache_if"), text, tool.name, error)
        landed.refused = "cache_if_failed"
        return False
    if not wanted:
        landed.refused = "cache_if"
    return wanted
