"""A memory backend whose time stands still, set as the default, for each test; and the ways to run a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    LoopEvent,
    MemoryBackend,
    configure,
)
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock

HUGE = 10**9
Runner = Callable[[Any], LoopEvent | None]


@pytest.fixture(autouse=True)
def _default_backend(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})
    settings.notices.forget()
    configure(backend=MemoryBackend(clock=FakeClock()))


class FailedError(Exception):
    """What a tool of a trace raises."""


def observed(trace: Any) -> LoopEvent | None:
    """Each call told to the session after it was made."""
    with AgentCacheSession(max_execution_depth=HUGE) as session:
        for step in trace:
            if step.tool is None:
                session.new_turn()
                continue
            try:
                session.observe(step.tool, step.args, step.result, error=step.error, write=step.write, poll=step.poll)
            except AgentLoopDetectedError as error:
                return error.event
    return None


def decorated(trace: Any, *, kept: bool = False) -> LoopEvent | None:
    """Each call made through a decorated tool, which keeps its answers or not."""
    return asyncio.run(_decorated(trace, kept))


async def _decorated(trace: Any, kept: bool) -> LoopEvent | None:
    tools: dict[Any, Any] = {}
    now: list[Any] = []

    def tool(step: Any) -> Any:
        what = step.tool, step.write, step.poll
        if what not in tools:

            async def run(**args: Any) -> Any:
                if now[0].error is not None:
                    raise FailedError(now[0].error)
                return now[0].result

            run.__name__ = run.__qualname__ = step.tool
            read = AgentCache(f"of {step.tool}", poll=step.poll, cache_if=lambda _: kept)
            tools[what] = AgentCacheInvalidator("written")(run) if step.write else read(run)
        return tools[what]

    async with AgentCacheSession(max_execution_depth=HUGE) as session:
        for step in trace:
            if step.tool is None:
                session.new_turn()
                continue
            now[:] = [step]
            try:
                await tool(step)(**step.args)
            except AgentLoopDetectedError as error:
                return error.event
            except FailedError:
                pass
    return None
