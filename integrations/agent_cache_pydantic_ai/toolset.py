"""The toolset: the tools of one toolset, for those who do not own the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from agent_cache.adapters import Policies, ToolPolicy
from agent_cache.backends.base import Backend
from agent_cache_pydantic_ai.calls import Calls, Identity, SessionId

__all__ = ["AgentCacheToolset", "CheckedToolset"]


class CheckedToolset(WrapperToolset[Any]):
    """A toolset that looks at its tools before the model does."""

    def __init__(self, wrapped: AbstractToolset[Any], calls: Calls) -> None:
        super().__init__(wrapped)
        self._calls = calls

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        tools = await super().get_tools(ctx)
        self._calls.check(tools)
        return tools

    # The base class makes a new object of the fields it knows; what is known of calls must go along.

    async def for_run(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        return self._around(await self.wrapped.for_run(ctx))

    async def for_run_step(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        return self._around(await self.wrapped.for_run_step(ctx))

    def visit_and_replace(
        self, visitor: Callable[[AbstractToolset[Any]], AbstractToolset[Any]]
    ) -> AbstractToolset[Any]:
        return self._around(self.wrapped.visit_and_replace(visitor))

    def _around(self, wrapped: AbstractToolset[Any]) -> AbstractToolset[Any]:
        if wrapped is self.wrapped:
            return self
        other = copy(self)
        other.wrapped = wrapped
        return other


class AgentCacheToolset(CheckedToolset):
    """A toolset whose reads are answered from the cache and whose writes invalidate.

    ``Agent(..., toolsets=[AgentCacheToolset(toolset, {...})])``. As :class:`AgentCacheCapability` with the arguments of
    the same names, for one toolset; put it outside of whatever renames tools, and inside of whatever asks for approval.
    Hits count as tool calls in the run's usage, and hooks of capabilities run for them. A session that is made here,
    because there is none around the run, ends when 1,024 younger ones have come.

    Args:
        wrapped: any toolset, such as a ``FunctionToolset`` or an ``MCPToolset``.

    Raises:
        ConfigurationError: as for the capability.
    """

    def __init__(
        self,
        wrapped: AbstractToolset[Any],
        policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None,
        *,
        identity: Identity | None = None,
        session: SessionId | None = None,
        backend: Backend | None = None,
        provenance: bool = False,
        dynamic_tools: bool = False,
        **options: Any,
    ) -> None:
        calls = Calls(policies, identity, session, backend, provenance, dynamic_tools, options)
        super().__init__(wrapped, calls)

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        def run() -> Any:
            return self.wrapped.call_tool(name, tool_args, ctx, tool)

        return await self._calls.answer(ctx, tool.tool_def, tool, tool_args, run)
