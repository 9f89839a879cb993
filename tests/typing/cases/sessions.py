"""Sessions, switches, observers and metrics. Read by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any, assert_type

from agent_cache import (
    AgentCacheSession,
    AgentLoopDetectedError,
    CallEvent,
    InvalidationEvent,
    LoopEvent,
    Observer,
    configure,
    get_metrics,
    no_cache,
    refresh,
    reset_metrics,
)


class Printer:
    def on_event(self, event: CallEvent | InvalidationEvent | LoopEvent) -> None:
        if isinstance(event, LoopEvent):
            assert_type(event.hint, str)


class NotAnObserver:
    def on_event(self, event: CallEvent) -> int:
        return len(event.tags)


def stop(event: LoopEvent) -> None:
    raise AgentLoopDetectedError(event)


async def sessions() -> None:
    async with AgentCacheSession("s1", on_loop="warn", identity={"tenant": "acme", "user": "u1"}) as session:
        assert_type(session, AgentCacheSession)
        assert_type(session.get_metrics(), dict[str, Any])
        session.new_turn()
    with AgentCacheSession(max_tool_repeats=3, on_loop=stop) as session:
        assert_type(session, AgentCacheSession)
    AgentCacheSession(on_loop=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AgentCacheSession(max_tool_repeats="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def the_rest() -> None:
    observer: Observer = Printer()
    configure(observers=[observer])
    assert_type(get_metrics(), dict[str, Any])
    reset_metrics()
    with no_cache(), refresh():
        pass
    wrong: Observer = NotAnObserver()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong
