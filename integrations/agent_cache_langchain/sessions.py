"""Whose a call is: the session and the identity it belongs to, from the run it is made in.

A graph runs every tool call in a context of its own, so a session cannot be opened by one node and found by the next. What
goes on over the calls of a run is held here, by the thread's id or the run's.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from agent_cache import AgentCacheSession, ConfigurationError
from agent_cache.adapters import HeldSessions
from agent_cache.context import SessionState, current_view
from agent_cache_langchain.interrupts import SCRATCHPAD

__all__ = ["Identity", "RunSessions", "session_for"]

Identity = Mapping[str, object] | Sequence[str] | Callable[[Any], Mapping[str, object] | None] | None
"""Who is asking: a mapping; a function of the ``ToolRuntime``; or names of fields, from the widest to the narrowest, that
are looked for in the run's context and in its ``configurable``."""


def session_for(
    config: RunnableConfig,
    identity: Mapping[str, object] | Callable[[RunnableConfig], Mapping[str, object] | None] | None = None,
    **options: Any,
) -> AgentCacheSession:
    """The session of the thread a run belongs to; enter it around ``agent.invoke`` or ``ainvoke``.

    Args:
        config: what the agent is invoked with; its ``configurable["thread_id"]`` becomes the ``session_id``.
            Without one the session gets an id of its own and shares nothing with another block.
        identity: whose answers these are, from the widest to the narrowest field, for example
            ``{"tenant": "acme", "user": "u1"}``; or a function that takes it from the config.
        options: passed on to :class:`~agent_cache.AgentCacheSession`.

    Raises:
        ConfigurationError: an option the session does not accept.
    """
    thread = config.get("configurable", {}).get("thread_id")
    who = identity(config) if callable(identity) else identity
    return AgentCacheSession(None if thread is None else str(thread), identity=who, **options)


class RunSessions:
    """The sessions of the runs of one middleware.

    Args:
        session: the session's id, or a function of the ``ToolRuntime`` that returns it (or None).
        identity: see :data:`Identity`.
        options: for every :class:`~agent_cache.AgentCacheSession`.
    """

    def __init__(self, session: str | Callable[[Any], str | None] | None, identity: Identity, **options: Any) -> None:
        self._id = session
        self._identity = _checked(identity)
        self._held = _held_with(options)

    def around(self, runtime: Any, state: Any, run: str | None) -> AbstractContextManager[object]:
        """The session to make one call in; the one that is open already, where it knows who is asking.

        Args:
            runtime: the call's ``ToolRuntime``.
            state: the graph's state.
            run: what names the run where there is no thread.
        """
        ambient = current_view().session
        identity = self._identity_in(runtime)
        own = self._id_in(runtime) or run
        if ambient is not None:
            if ambient in _turns and own is not None and own != ambient.session_id:
                identity = identity or ambient.identity  # this agent was called by another one, as a tool
            elif ambient.identity or not identity:
                return nullcontext()
            else:
                own = ambient.session_id
        if own is not None:
            return self._entered(own, identity, _turn(state, runtime))
        # Nothing tells this run from the next: no session, but it is known who is asking.
        return AgentCacheSession(identity=identity, loop_detection=False) if identity else nullcontext()

    def release(self, run: str) -> None:
        """The run is over."""
        self._held.release(run)

    @contextmanager
    def _entered(self, session_id: str, identity: Mapping[str, object], turn: object) -> Any:
        with self._held.attach(session_id, identity) as session:
            here = current_view().session
            if here is not None and _is_new(turn, here):
                session.new_turn()
            yield session

    def _id_in(self, runtime: Any) -> str | None:
        if self._id is not None:
            return self._id(runtime) if callable(self._id) else self._id
        return _thread(runtime.config.get("configurable", {})) if runtime is not None else None

    def _identity_in(self, runtime: Any) -> Mapping[str, object]:
        identity = self._identity
        if identity is None:
            return {}
        if callable(identity):
            return identity(runtime) or {}
        if isinstance(identity, Mapping):
            return identity
        return {name: _field(runtime, name) for name in identity}


_MOST_KINDS = 64
_kinds: OrderedDict[object, HeldSessions] = OrderedDict()
_kinds_lock = threading.Lock()


def _held_with(options: Mapping[str, Any]) -> HeldSessions:
    """The sessions with these options: the same for all middleware, which some make anew for each request."""
    made = HeldSessions(**options)  # says what is wrong with the options
    try:
        key = frozenset(options.items())
        with _kinds_lock:
            held = _kinds.setdefault(key, made)
            _kinds.move_to_end(key)
            oldest = _kinds.popitem(last=False)[1] if len(_kinds) > _MOST_KINDS else None
    except TypeError:  # an option that cannot be looked up
        return made
    if oldest is not None:
        oldest.close()
    return held


def _checked(identity: Any) -> Identity:
    fix = "give a mapping, a function of the ToolRuntime, or names of fields from the widest to the narrowest"
    if isinstance(identity, str):
        return (identity,)
    if identity is None or callable(identity) or isinstance(identity, Mapping):
        return cast("Identity", identity)
    if isinstance(identity, Sequence) and all(isinstance(name, str) for name in identity):
        return tuple(identity)
    raise ConfigurationError("identity", identity, fix)


def _field(runtime: Any, name: str) -> object:
    """A field of the run's context, else of its config; None where neither has it."""
    context = getattr(runtime, "context", None)
    found = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
    if found is None and runtime is not None:
        found = runtime.config.get("configurable", {}).get(name)
    return found


def _thread(configurable: Mapping[str, Any]) -> str | None:
    """The thread; and in it an agent that another one calls has a session of its own."""
    thread = configurable.get("thread_id")
    if thread is None:
        return None
    nodes = [part.partition(":")[0] for part in str(configurable.get("checkpoint_ns") or "").split("|")]
    return "|".join((str(thread), *nodes[:-1]))


_turns: weakref.WeakKeyDictionary[SessionState, object] = weakref.WeakKeyDictionary()
_turns_lock = threading.Lock()


def _is_new(turn: object, session: SessionState) -> bool:
    """Whether the session was in another turn before: then repeats and the budget start over."""
    with _turns_lock:
        before = _turns.get(session)
        _turns[session] = turn
    return before is not None and before != turn


def _turn(state: Any, runtime: Any) -> object:
    """What tells this turn from others: the last message of the user, else the call of the graph."""
    messages = state.get("messages") if isinstance(state, Mapping) else state
    messages = messages if isinstance(messages, list) else getattr(state, "messages", None)
    said = next((m for m in reversed(messages or ()) if isinstance(m, HumanMessage)), None)
    if said is not None and said.id is not None:
        return said.id
    scratchpad = runtime.config.get("configurable", {}).get(SCRATCHPAD) if runtime is not None else None
    return "call", getattr(scratchpad, "stop", None)  # the step at which LangGraph would give up this call
