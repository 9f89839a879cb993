"""What a load turns out to depend on while it runs: ``depends_on(...)`` in the tool, and the cached tools it calls.

A load is noted in a context variable. Whatever it comes to depend on is noted with a *token* taken before that is read;
when the load has ended, a token for everything is asked for, and then each of the parts again: only if each is still what it
was does the whole cover the load. The answer is stored under a key of its own, made from the call's and the tags it came
to depend on, and what was learned is remembered by this process: the next load of that call takes one token for
everything before it begins, and its hits are looked up as any other's, in one step. What is forgotten is a miss.

Who may share such a load changes with it: a caller that comes after something was added must not ride.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent_cache.backends.base import Backend, Lookup, Missing, Token
from agent_cache.context import View, loading
from agent_cache.engine.calls import REMEMBERED, Bypass, ReadCall, Remembered, Shadowed
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down
from agent_cache.engine.outbox import WRITES
from agent_cache.engine.tools import ReadTool
from agent_cache.flight import leave_alone
from agent_cache.tags import CallTags, Chain, SharedTags, Tag

__all__ = ["LoadNotes", "Noting", "Part", "Together", "as_declared", "noted", "noted_late", "proven"]

_MOST = 10_000
_MOST_TAGS = 512  # of one load; one that comes to depend on more is not kept


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some tags a load came to depend on, as something to ask a token for."""

    backend: Backend
    tags: tuple[Tag, ...]
    key: bytes = b""


class Noting(Protocol):
    """Who is to hear of what is read."""

    def chain_of_loads(self) -> list[LoadNotes]:
        """The loads that come to depend on it."""
        ...


class Together:
    """Several loads of which one piece of work is a part."""

    __slots__ = ("_loads",)

    def __init__(self, loads: Iterable[Noting]) -> None:
        self._loads = tuple(loads)

    def chain_of_loads(self) -> list[LoadNotes]:
        return list(dict.fromkeys(load for each in self._loads for load in each.chain_of_loads()))


class LoadNotes:
    """One load under way: what it has come to depend on, beside what its token covers (``added``; None: nothing), what it
    depends on of that which was remembered (``used``), and of how much no token is there from before it was read.
    """

    # Of the class until they are set: most loads come to depend on nothing more, and each has its notes.
    added: dict[Tag, None] | None = None
    used: set[Tag] | None = None
    parts: list[tuple[Part, Token]] | None = None
    refused: str | None = None
    personal = False
    """It read what may be another one for another session."""
    unproven = 0
    over = False

    def __init__(self, call: ReadCall, fenced: bool = True) -> None:
        self.call = call
        self.fenced = fenced
        """It has a token, and may be kept. Of one that has none it is only asked whose it is."""
        self.outer: Noting | None = loading.get()

    def chain_of_loads(self) -> list[LoadNotes]:
        """This load and those it was called in, as far as they are under way."""
        outer = [] if self.outer is None else self.outer.chain_of_loads()
        return outer if self.over else [self, *outer]

    def lacks(self, tags: Iterable[Tag]) -> tuple[Tag, ...]:
        """Those of ``tags`` that it does not know of yet; from now on it does."""
        call, added = self.call, self.added
        new: list[Tag] = []
        for tag in tags:
            if tag in call.tags:
                if call.extras:
                    self.used = self.used or set()
                    self.used.add(tag)
            elif added is None or tag not in added:
                new.append(tag)
        if new:
            self.added = dict.fromkeys([*(added or ()), *new])
            leave_alone()
            if len(self.added) > _MOST_TAGS:
                self.refuse("too_many_dependencies")
        if new or self.used:
            self._tell_writes(new or tuple(self.used or ()))
        return tuple(new)

    def _tell_writes(self, tags: Iterable[Tag]) -> None:
        """A write has to know of which scope the reads of its resource are, and where they are kept."""
        policy = self.call.tool.policy
        heads = {path[0] for _, _, path in tags if path and not path[0].startswith("#")}
        if not WRITES.know_of(heads, policy.scope, policy.backend):
            self.unproven += 1  # one that is under way does not
            self.added = self.added or {}

    def learn(self, part: Part, found: Lookup | Down) -> None:
        """What was said to the question for a token of this part."""
        if isinstance(found, Missing):
            self.parts = [*(self.parts or ()), (part, found.token)]
        else:
            self.unproven += 1

    def refuse(self, why: str, of: ReadTool | None = None) -> None:
        """Its answer is not to be kept, and shared with nobody who comes from now on; nor, because ``of`` a tool whose answers
        are not everybody's, with another session that came before."""
        self.personal = self.personal or (of is not None and of.policy.scope != "global")
        if not self.fenced:
            return
        self.refused = why
        if self.added is None:
            self.added = {}
        leave_alone()

    def may_not_hold(self, chain: Chain) -> str | None:
        """Why its answer must not hold what belongs to ``chain``: it is nobody's but everyone's, its own or a wider one's.

        A read that is shared by what was written to what it declares cannot come to depend on more.
        """
        if self.call.mark is not None:
            return "lineage"
        return None if self.call.chain[: len(chain)] == chain else "narrower_scope"


def noted(notes: Noting, call: ReadCall | Bypass, tool: ReadTool) -> Line[None]:
    """A cached read is about to be answered inside a load: what it depends on, that load does from now on.

    Where the read is not cached, what it depends on is not known.
    """
    if isinstance(call, Shadowed):  # it runs, and depends on what it would have depended on
        call = call.call
    for load in notes.chain_of_loads():
        if isinstance(call, Bypass):
            load.refuse(f"uncached_inside:{call.reason}", of=tool)
            continue
        if (why := load.may_not_hold(call.chain)) is not None:
            load.refuse(why, of=tool)
            continue
        if not load.fenced:
            continue
        backend = load.call.backend
        if tool.policy.by_hand and call.backend is not backend:
            load.refuse("other_backend")
            continue
        lacking = load.lacks(call.tags)
        if lacking:
            part = Part(backend, lacking)
            ask = Ask(part, tool.codec, token_only=True)
            found: Lookup | Down = ask.go_blocking() if backend.in_process else (yield ask)
            load.learn(part, found)


def noted_late(notes: Noting, tags: tuple[Tag, ...]) -> None:
    """A load that was shared came to depend on these; that is heard after it was read."""
    for load in notes.chain_of_loads():
        if load.fenced and load.lacks(tags):
            load.unproven += 1


def proven(
    tool: ReadTool, view: View, values: tuple[Any, ...], notes: LoadNotes, token: Token
) -> Line[tuple[ReadCall, Token | None, str]]:
    """The call as it is stored now that its load is over, the token that covers all of it, and why there is none."""
    call = notes.call
    if notes.refused is not None:
        return call, None, notes.refused
    own = Part(call.backend, call.tags)
    if (yield from _token(tool, own)) != token:  # written, or set by hand: that is to be found as it was declared
        return call, None, "fenced_out"
    whole = remembered(call, {*(notes.added or ()), *(notes.used or ())})
    hot_key: Hashable = tool.shape.hot_key(values)
    view.calls.pop(hot_key, None)
    if notes.unproven:
        return whole, None, "dependencies_unproven"
    parts = [(own, token), *(notes.parts or ())]
    found = yield from _token(tool, Part(call.backend, whole.tags))
    for part, before in parts:  # each of them after the whole: what has not moved until now was the same then
        now = yield from _token(tool, part)
        if now is None or now != before:
            return whole, None, "fenced_out"
    return whole, found, "" if found is not None else "fenced_out"


def _token(tool: ReadTool, part: Part) -> Line[Token | None]:
    ask = Ask(part, tool.codec, token_only=True)
    found: Lookup | Down = ask.go_blocking() if part.backend.in_process else (yield ask)
    return found.token if isinstance(found, Missing) else None


def remembered(call: ReadCall, tags: Iterable[Tag]) -> ReadCall:
    """The call with these tags beside those that were declared; from now on it is looked up so."""
    extras = tuple(sorted(tags))
    declared = call.tags if call.declared is None else call.declared
    base_key = call.key if call.base_key is None else call.base_key
    key = hashlib.blake2b(repr(extras).encode("utf-8", "surrogatepass"), digest_size=20, key=base_key).digest()
    shared = SharedTags(declared.shared.tags + extras, declared.shared.chains)
    whole = CallTags(shared.tags + declared.own)
    whole.shared, whole.own = shared, declared.own
    while len(REMEMBERED) >= _MOST:
        REMEMBERED.pop(next(iter(REMEMBERED)), None)
    REMEMBERED[base_key] = Remembered(key, whole, extras)
    return replace(call, key=key, tags=whole, extras=extras, declared=declared, base_key=base_key)


def as_declared(call: ReadCall, view: View, hot_key: Hashable) -> ReadCall:
    """The call without what its loads came to depend on, which is forgotten: what is set by hand depends on none of it."""
    if call.base_key is None or call.declared is None:
        return call
    REMEMBERED.pop(call.base_key, None)
    view.calls.pop(hot_key, None)
    return replace(call, key=call.base_key, tags=call.declared, extras=(), declared=None, base_key=None)
