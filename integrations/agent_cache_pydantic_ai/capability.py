"""The capability: all tools of an agent, whatever toolset they come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset

from agent_cache.adapters import Policies, ToolPolicy
from agent_cache.backends.base import Backend
from agent_cache_pydantic_ai.calls import Calls, Identity, SessionId
from agent_cache_pydantic_ai.toolset import CheckedToolset

__all__ = ["AgentCacheCapability"]


class AgentCacheCapability(AbstractCapability[Any]):
    """Answers an agent's read tools from the cache, lets its writes invalidate, and watches all its calls for loops.

    ``Agent(..., capabilities=[AgentCacheCapability({...})])``. Arguments count as validated, defaults filled in; ``deps``
    is never part of a key. Only ``kind="function"`` tools are cached, and never what was raised (``ModelRetry``,
    approvals, deferred calls) or approved by a human. Calls belong to the :class:`~agent_cache.AgentCacheSession`
    around the run, else to a session of the run's own, with ``identity`` from its context.

    Args:
        policies: what each tool reads or writes, by name or pattern; a tool may carry its own as
            ``metadata={"agent_cache": {...}}``.
        identity: who asks, a function of the run's context: ``lambda ctx: {"user": ctx.deps.user_id}``. For runs without
            a session around them.
        session: the session's id, a function of the run's context, such as ``lambda ctx: ctx.conversation_id`` for
            entries that outlive a run. None: the run.
        backend: where answers are kept; None: the session's, or the configured one.
        provenance: put ``{"agent_cache": {"kind": ..., "executed": ...}}`` into the metadata of results (not seen by
            the model), and of what was not executed its ``age`` (seconds), ``tags`` (the resources it depends on) and
            ``stale``. The current span is told in any case whether the tool ran.
        dynamic_tools: tools named in ``policies`` may be absent from a step.
        options: for the sessions, such as ``on_loop`` and ``max_tool_repeats``.

    Raises:
        ConfigurationError: here, or before the first request of a run: a wrong policy, one for no tool, a template that
            names no argument, a read that takes the run context and declares no scope.
    """

    def __init__(
        self,
        policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None,
        *,
        identity: Identity | None = None,
        session: SessionId | None = None,
        backend: Backend | None = None,
        provenance: bool = False,
        dynamic_tools: bool = False,
        **options: Any,
    ) -> None:
        self._calls = Calls(policies, identity, session, backend, provenance, dynamic_tools, options)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        return CheckedToolset(toolset, self._calls)

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await handler()
        finally:
            self._calls.release(ctx)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        tools = ctx.tool_manager.tools if ctx.tool_manager is not None else None
        tool = (tools or {}).get(call.tool_name)
        return await self._calls.answer(ctx, tool_def, tool, args, lambda: handler(args))
