"""Sessions: one run of an agent, on whose behalf tools are called; and the two modes of reading.

``AgentCacheSession`` sets who is asking, holds what dies with the run, and watches for loops.
The state itself is :mod:`agent_cache.context`'s; what a call makes of it, the engine's.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Coroutine, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from types import MappingProxyType, TracebackType
from typing import Any

from agent_cache.backends.base import Backend
from agent_cache.cassette import RecordMode, Redact, Tape, Taping
from agent_cache.config import settings
from agent_cache.context import SessionState, View, loading, view_var, who_is
from agent_cache.engine.guard import failure, observed, returned
from agent_cache.errors import ConfigurationError
from agent_cache.lineage import Lineage
from agent_cache.locks import renewed_after_fork
from agent_cache.loops import LoopKey, LoopPolicy, OnLoop, checked_on_loop, checked_rule
from agent_cache.model import LoopEvent
from agent_cache.notices import log
from agent_cache.tags import Chain

__all__ = ["AgentCacheSession", "left", "no_cache", "refresh"]


class _Live:
    """The sessions with an open block, so that blocks with one id share one state."""

    def __init__(self) -> None:
        self.lock = renewed_after_fork(self, "lock")
        self.views: dict[tuple[object, ...], tuple[View, int]] = {}
        self.worlds: dict[str, tuple[Lineage | None, int]] = {}
        """By session id: what is written there hangs together, whoever asks; and for how many views."""

    def world(self, session_id: str, start_state: object) -> Lineage | None:
        """The lineage of this session, begun or joined. Call with the lock held.

        Raises:
            ConfigurationError: it is open, and was started otherwise: what joins a session joins it where it is.
        """
        lineage, views = self.worlds.get(session_id, (None, 0))
        if start_state is not None:
            own = Lineage(start_state)
            if views == 0:
                lineage = own
            elif lineage is None or lineage.state != own.state:
                fix = "this session is open and was started otherwise; name the same state, or another session_id"
                raise ConfigurationError("start_state", start_state, fix)
        self.worlds[session_id] = lineage, views + 1
        return lineage

    def leaves(self, session_id: str) -> None:
        """A view is done with the world of this session."""
        lineage, views = self.worlds.pop(session_id)
        if views > 1:
            self.worlds[session_id] = lineage, views - 1
        elif lineage is not None:
            lineage.poison("the end of the session")  # its world may be somebody else's now


_live = _Live()


class AgentCacheSession:
    """One run of an agent.

    Use it as ``async with`` or ``with``. Tasks and threads (with copied context) started inside belong to it.
    Sessions nest: the inner one inherits identity and backend unless it names its own. Two open blocks with the
    same ``session_id`` (and identity) share entries, metrics and loop detection.

    Args:
        session_id: a name for the run; a random one if None.
        loop_detection: watch for repeats, cycles, equal failures, standstill, and the depth budget; see ``docs/loops.md``.
        max_tool_repeats: equal calls with an equal outcome that pass; the next one is a loop.
        max_execution_depth: calls one turn may make; see :meth:`new_turn`.
        on_loop: ``"raise"`` (:class:`AgentLoopDetectedError`), ``"warn"`` (log and go on), ``"short_circuit"`` (a read
            returns that call's last result without running; raises if there is none), ``"staged"`` (a hint, then
            short-circuit, then raise), or a function of the :class:`LoopEvent` that may raise or return one of those.
            Hints are for the model: see :meth:`take_hints`.
        identity: who is asking, as a mapping from the widest field to the narrowest, such as
            ``{"tenant": "acme", "user": "u1"}``. A scope names one of its fields and includes those before it.
        backend: for tools that name none.
        keep: leave session-scoped entries in the backend for the next block with this ``session_id``.
        start_state: names the state in which the world of this session is now, such as ``"airline-v3"``: a text or plain
            values. Sessions that start in one state share the reads with ``scope="lineage"`` as long as they make the same
            writes; see ``docs/lineage.md``. A session inside another one lives in its world, unless it names its own.
        loop_policy: all thresholds in one :class:`LoopPolicy`, instead of ``max_tool_repeats`` and ``max_execution_depth``.
        record: a path: what every tool call of the block returned or raised is written there; see ``docs/record-replay.md``.
        replay: a path: every call is answered from this cassette; no tool runs, no backend is asked.
        record_mode: with ``record``: ``"all"`` (the default: anew), ``"once"`` (if there is no cassette of a run that ended
            well; else it is replayed), ``"new_episodes"`` (what it has is replayed, what it has not runs and is added).
        redact: names of parameters, and of keys inside them, whose values are secret; or a function of a tool's name and
            its arguments that returns those to be kept.
        replay_errors: classes of exceptions that a replay may raise, beside the builtin ones.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
        CassetteError: the cassette to be replayed is not one.
    """

    def __init__(
        self,
        session_id: str | None = None,
        loop_detection: bool = True,
        max_tool_repeats: int = 5,
        max_execution_depth: int = 50,
        on_loop: OnLoop = "raise",
        *,
        identity: Mapping[str, object] | None = None,
        backend: Backend | None = None,
        keep: bool = False,
        loop_policy: LoopPolicy | None = None,
        record: str | os.PathLike[str] | None = None,
        replay: str | os.PathLike[str] | None = None,
        record_mode: RecordMode | None = None,
        redact: Redact = (),
        replay_errors: Iterable[type[Exception]] = (),
        start_state: object = None,
    ) -> None:
        if session_id is not None and (not isinstance(session_id, str) or not session_id):
            raise ConfigurationError("session_id", session_id, "give a text, or None for a random one")
        if identity is not None and not isinstance(identity, Mapping):
            raise ConfigurationError("identity", identity, "give a mapping such as {'tenant': 'acme', 'user': 'u1'}")
        for name in identity or ():
            if not isinstance(name, str) or name in ("global", "session", "lineage"):
                raise ConfigurationError("identity", identity, f"{name!r} cannot be the name of a field")
        if backend is not None and not hasattr(backend, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        if keep and start_state is not None:
            fix = (
                "a kept session goes on after what other blocks have written; start a session of its own, without keep"
            )
            raise ConfigurationError("start_state", start_state, fix)
        self._start_state = start_state
        if start_state is not None:
            Lineage(start_state)  # what is wrong with it is said now
        self.session_id = session_id if session_id is not None else uuid.uuid4().hex
        self._policy = _policy(loop_policy, max_tool_repeats, max_execution_depth)
        self._detects = bool(loop_detection)
        self._on_loop: OnLoop = checked_on_loop(on_loop)
        self._own_identity = None if identity is None else MappingProxyType(dict(identity))
        self._own_backend = backend
        self._keep = keep
        self._named = session_id is not None
        self._taping = _taping(record, replay, record_mode, redact, replay_errors)
        self._tape: Tape | None = None
        self._view: View | None = None
        self._key: tuple[object, ...] = ()
        self._reset: Token[View] | None = None

    @property
    def identity(self) -> Mapping[str, object]:
        """Who is asking: its own identity, or inside the block the one it inherited."""
        if self._view is not None and self._view.session is not None:
            return self._view.session.identity
        return self._own_identity or MappingProxyType({})

    def new_turn(self) -> None:
        """A user message came: repeats, cycles and the depth budget start over."""
        state = self._state()
        assert self._view is not None  # noqa: S101 - there is no state without one
        with state.lock:
            self._view.drain()
            state.new_turn()
            self._view.make_room()

    def observe(
        self,
        tool: str,
        args: object = None,
        result: object = None,
        *,
        error: BaseException | str | None = None,
        write: bool | None = None,
        poll: bool = False,
        max_tool_repeats: int | None = None,
        loop_key: LoopKey | None = None,
        batch: Hashable = None,
    ) -> LoopEvent | None:
        """Tell the loop detector of a call that went past the cache, after it was made. Decorated tools tell it themselves.

        Args:
            tool: the tool's name.
            args: its arguments: a mapping, or the JSON text of one.
            result: what it returned. A text that begins with "error", or a mapping that says ``is_error``, is a failure.
            error: what it raised, or the text of its failure.
            write: True: it changed something: what others answer from now on may be new. False: it changed nothing. None:
                nobody says; the loop detector takes it for a read, and ``scope="lineage"`` for a write of anything.
            poll: as on :class:`AgentCache`; so are ``max_tool_repeats`` and ``loop_key``.
            batch: anything hashable that tells one turn of the model from the next, such as its message's id: equal calls
                of one batch were made at once and are one.

        Returns:
            The event where the call was a loop and ``on_loop`` lets it pass; its ``hint`` is fit to show to the model.

        Raises:
            AgentLoopDetectedError: the call was a loop, or the budget is used up, by ``on_loop``; see the class.
            ConfigurationError: the session has not been entered, or a parameter is wrong.
        """
        if not isinstance(tool, str) or not tool:
            raise ConfigurationError("tool", tool, "give the tool's name, a text")
        if write is not None and not isinstance(write, bool):
            raise ConfigurationError("write", write, "give True, False, or None where nobody knows")
        state = self._state()
        assert self._view is not None  # noqa: S101 - there is no state without one
        if state.lineage is not None and write is not False:
            state.lineage.poison(tool)
        if settings.shadow is not None and write is not False:
            settings.shadow.wrote(tool, {}, (), settings.shadow.now(), declared=False)
        rule = checked_rule(bool(poll), max_tool_repeats, loop_key)
        outcome = returned(result, write=bool(write)) if error is None else failure(error, write=bool(write))
        return observed(self._view, tool, args, outcome, rule, batch)

    def take_hints(self) -> tuple[LoopEvent, ...]:
        """The loops found since the last time that were let pass or answered from memory: show their ``hint`` to the model.

        The integrations put them beside the result. At most the last 16; a new turn forgets them.
        """
        state = self._state()
        with state.lock:
            hints = tuple(state.hints)
            state.hints.clear()
        return hints

    @property
    def was_entered(self) -> bool:
        """Whether its block has been entered, now or before."""
        return self._view is not None

    def unplayed(self) -> tuple[str, ...]:
        """The recorded calls, as text, that the replaying run has not made: in its block, and after it."""
        return self._tape.unplayed() if self._tape is not None else ()

    def get_metrics(self) -> dict[str, Any]:
        """The counters of :func:`agent_cache.get_metrics`, for this session only; entries and bytes: its own."""
        state = self._state()
        assert self._view is not None  # noqa: S101 - as above
        self._view.drain()
        self._view.make_room()
        figures = state.metrics.snapshot()
        sizes = [backend.sync.chain_sizes(state.chain) for backend in state.used.values() if backend.in_process]
        figures["entries"] = sum(entries for entries, _ in sizes)
        figures["bytes"] = sum(size for _, size in sizes)
        return figures

    def _state(self) -> SessionState:
        if self._view is None or self._view.session is None:
            raise ConfigurationError("session", self.session_id, "it has not been entered; use 'async with' or 'with'")
        return self._view.session

    def _enter(self) -> None:
        if self._reset is not None:
            raise ConfigurationError("session", self.session_id, "it is already open; make a second one to nest")
        around = view_var.get()
        outer = around.session
        nobody: Mapping[str, object] = MappingProxyType({})
        inherited = outer.identity if outer is not None else nobody
        identity = inherited if self._own_identity is None else self._own_identity
        backend = self._own_backend or (outer.backend if outer is not None else None)
        lineage = outer.lineage if outer is not None and self._start_state is None else None
        who = who_is(identity)
        tape = self._opened_tape(around.tape)
        self._key = (self.session_id, who, lineage, tape)  # one that lives on outside a tape is another one inside
        chain: Chain = ("session", self.session_id, who)
        if lineage is not None:
            chain = (*chain, lineage.name)  # a sub-agent of the same name lives in another world beside it
        with _live.lock:
            view, blocks = _live.views.get(self._key, (None, 0))
            if view is None:
                policy = self._policy if self._detects else None
                own = lineage or _live.world(self.session_id, self._start_state)
                state = SessionState(self.session_id, chain, identity, backend, policy, self._on_loop, own)
                view = View(state, tape=tape)
                if own is not None:
                    own.hears(view.live or view)
            elif lineage is None:
                _live.world(self.session_id, self._start_state)
                _live.leaves(self.session_id)
            _live.views[self._key] = (view, blocks + 1)
        self._view = view
        if tape is not None:
            tape.entered(view.session, self.session_id, named=self._named)
        # inside no_cache() or refresh() a new session reads in that mode too
        mode = around.mode
        if mode != "normal":
            view = View(view.session, mode, tape)
        elif loading.get() is not None:  # a tool that opens a session while it is run: its load hears of every call
            view = view.within_load()
        self._reset = view_var.set(view)

    def _opened_tape(self, around: Tape | None) -> Tape | None:
        """Its own tape, else the one it is opened under."""
        if self._taping is None:
            return around
        if around is not None:
            parameter = "replay" if self._taping.mode == "none" else "record"
            fix = f"it is opened inside a session that records or replays {around.path}; its calls are that one's"
            raise ConfigurationError(parameter, str(self._taping.path), fix)
        self._tape = self._taping.open()
        return self._tape

    def _leave(self) -> list[Backend]:
        """Out of the context; the backends to clean up if this was the last block."""
        if self._reset is not None:
            try:
                view_var.reset(self._reset)
            except ValueError:
                # left in another context than entered (an async generator's finalizer): nothing to reset there
                log.debug("session %s was left in another context than it was entered in", self.session_id)
            self._reset = None
        view = self._view
        if view is None or view.session is None:
            return []
        view.drain()
        with _live.lock:
            _, blocks = _live.views.get(self._key, (None, 0))
            if blocks > 1:
                _live.views[self._key] = (view, blocks - 1)
                return []
            _live.views.pop(self._key, None)
            if self._key[2] is None:
                _live.leaves(self.session_id)
        view.cool()
        return [] if self._keep else list(view.session.used.values())

    def _close_tape(self, kind: type[BaseException] | None) -> None:
        if self._tape is not None:
            self._tape.close(kind.__name__ if kind is not None else None)

    def _failed(self, error: Exception) -> None:
        log.warning("session %s: its entries could not be dropped now (%r); they expire", self.session_id, error)

    async def __aenter__(self) -> AgentCacheSession:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_tape(kind)
        await self._drop(self._leave())

    async def _drop(self, backends: list[Backend]) -> None:
        for backend in backends:
            try:
                await backend.drop_chain(self._state().chain)
            except Exception as failure:  # noqa: BLE001 - a failing cache never fails a run
                self._failed(failure)

    def __enter__(self) -> AgentCacheSession:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_tape(kind)
        for backend in self._leave():
            try:
                backend.sync.drop_chain(self._state().chain)
            except Exception as failure:  # noqa: BLE001 - as above
                self._failed(failure)


def _taping(
    record: str | os.PathLike[str] | None,
    replay: str | os.PathLike[str] | None,
    record_mode: RecordMode | None,
    redact: Redact,
    replay_errors: Iterable[type[Exception]],
) -> Taping | None:
    if record is None and replay is None:
        for name, given in (("record_mode", record_mode), ("redact", redact), ("replay_errors", replay_errors)):
            if given not in (None, ()):
                raise ConfigurationError(name, given, "it goes with record= or replay=")
        return None
    return Taping(record, replay, record_mode, redact, replay_errors)


def left(session: AgentCacheSession) -> Coroutine[Any, Any, None]:
    """Leave now; what is returned drops the session's entries, and may be awaited later."""
    return session._drop(session._leave())


def _policy(policy: LoopPolicy | None, max_tool_repeats: int, max_execution_depth: int) -> LoopPolicy:
    mapped = LoopPolicy(max_tool_repeats, max_execution_depth)
    if policy is None:
        return mapped
    if not isinstance(policy, LoopPolicy):
        raise ConfigurationError("loop_policy", policy, "give a LoopPolicy(...)")
    if mapped != LoopPolicy():
        raise ConfigurationError("loop_policy", policy, "put max_tool_repeats and max_execution_depth into it")
    return policy


def backends_in_use() -> list[Backend]:
    """What the open sessions name as theirs, or have used."""
    with _live.lock:
        states = [view.session for view, _ in _live.views.values() if view.session is not None]
    named = [state.backend for state in states if state.backend is not None]
    return named + [used for state in states for used in list(state.used.values())]


@contextmanager
def no_cache() -> Iterator[None]:
    """Inside, reads run live and nothing of them is stored. Writes invalidate as ever."""
    with _mode("bypass"):
        yield


@contextmanager
def refresh() -> Iterator[None]:
    """Inside, reads run live and what they return is stored."""
    with _mode("refresh"):
        yield


@contextmanager
def _mode(mode: Any) -> Iterator[None]:
    outer = view_var.get()
    outer.drain()
    if outer.mode == "bypass":
        mode = "bypass"  # nothing inside no_cache() reads or stores
    view = View(outer.session, mode, outer.tape)
    reset = view_var.set(view)
    try:
        yield
    finally:
        view_var.reset(reset)
        outer.make_room()
