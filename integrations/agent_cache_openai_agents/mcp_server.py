"""An MCP server of the SDK whose tool calls go through the cache. What may be kept is :mod:`agent_cache_mcp`'s to say."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from inspect import isawaitable
from types import TracebackType
from typing import Any

from agents import RunContextWrapper
from agents.agent import AgentBase
from agents.mcp import MCPServer
from mcp.types import CallToolResult
from mcp.types import Tool as MCPTool

from agent_cache.adapters import OneCallOnly, Policies, ToolPolicy, taken_hints
from agent_cache.backends.base import Backend
from agent_cache.errors import AgentLoopDetectedError, ConfigurationError
from agent_cache_mcp.calls import Asker, ServerCache
from agent_cache_mcp.results import PROVENANCE, Wire
from agent_cache_openai_agents.loops import ending

__all__ = ["CachedMCPServer"]


class CachedMCPServer(MCPServer):
    """A server in front of ``server`` whose reads are answered from the cache and whose writes invalidate.

    ``Agent(..., mcp_servers=[CachedMCPServer(server, {"get_user": {"kind": "read", "resource": "user:{id}"}})])``. A tool
    nothing is known of counts as a write to everything of this server. Resources are below the server's name: another
    tool that changes users says ``"crm:user:{id}"``. Failed results (``isError``) are not kept. Everything else (connecting,
    filters, approvals, prompts) is the server's own.

    Args:
        server: any server of the SDK, connected or not.
        policies: by tool name or pattern.
        principal: whom this connection speaks for, as a text (a user's id, never the credential). Answers are shared
            among connections of one principal to servers of one name; without one, with no other connection. A policy
            with a ``scope`` says itself who shares.
        trusted: believe what the server says of its tools: ``_meta["agent_cache"]``, and ``readOnlyHint``.
        open_world_ttl: seconds a read-only tool that looks at an open world may be answered from the cache.
        backend: where answers are kept; None: the session's, or the configured one.

    Raises:
        ConfigurationError: here; or, when its tools are listed (before the first request of a run), a policy for no tool
            of the server, or one that does not fit its tool.
    """

    def __init__(
        self,
        server: MCPServer,
        policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None,
        *,
        principal: str | None = None,
        trusted: bool = False,
        open_world_ttl: float | None = None,
        backend: Backend | None = None,
    ) -> None:
        # Not the base class's: what it would set here is looked up at the server instead (__getattr__).
        if not isinstance(server, MCPServer):
            raise ConfigurationError("server", server, "give an MCPServer of the Agents SDK")
        if principal is not None and (not isinstance(principal, str) or not principal):
            raise ConfigurationError("principal", principal, "give a text, or None for this connection alone")
        self._server = server
        self._trusted = bool(trusted)
        self._cache = ServerCache(
            server.name,
            policies,
            trust_annotations=self._trusted,
            open_world_ttl=open_world_ttl,
            backend=backend,
            partition=f"={principal}" if principal is not None else uuid.uuid4().hex,
        )

    def __getattr__(self, name: str) -> Any:
        if name == "_server":
            raise AttributeError(name)
        return getattr(self._server, name)

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def cached_tools(self) -> list[MCPTool] | None:
        return self._server.cached_tools

    @property
    def custom_data_extractor(self) -> Any:  # type: ignore[override]
        """The server's, and beside its data where a result came from."""
        return _extracting(self._server.custom_data_extractor)

    # -- tools -----------------------------------------------------------------------------------------------------------

    async def list_tools(
        self, run_context: RunContextWrapper[Any] | None = None, agent: AgentBase | None = None
    ) -> list[MCPTool]:
        tools = await self._server.list_tools(run_context, agent)
        filtered = getattr(self._server, "tool_filter", None) is not None  # other agents may see other tools
        self._cache.learn([self._definition(tool) for tool in tools], whole=not filtered)
        return tools

    def _definition(self, tool: MCPTool) -> Wire:
        definition = tool.model_dump(by_alias=True, mode="json", exclude_none=True)
        if not self._trusted:
            definition.pop("_meta", None)
        return definition

    async def call_tool(
        self, tool_name: str, arguments: dict[str, Any] | None, meta: dict[str, Any] | None = None
    ) -> CallToolResult:
        """Call a tool, or answer from the cache. ``meta`` is part of what is asked.

        Raises:
            LoopEndsRunError: the session's loop policy stopped the call, and with it the run.
            Exception: whatever the server raises.
        """
        made: list[Any] = []

        async def run() -> Wire | OneCallOnly:
            if meta is None:  # servers of users may not know the parameter
                made.append(await self._server.call_tool(tool_name, arguments))
            else:
                made.append(await self._server.call_tool(tool_name, arguments, meta=meta))
            return _wire(made[-1])

        try:
            answer = await self._cache.call(tool_name, arguments, run, Asker(meta=meta))
        except AgentLoopDetectedError as error:
            raise ending(error) from error
        result: CallToolResult = _with_hints(answer.handed_on(made, CallToolResult))
        return result

    # -- a loop ends the run: its error gets through the handler of failures ------------------------------------------------

    def _get_failure_error_function(self, agent_failure_error_function: Any) -> Any:
        theirs = self._server._get_failure_error_function(agent_failure_error_function)
        return None if theirs is None else _letting_loops_out(theirs)

    # -- the rest is the server's --------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        await self._server.connect()  # type: ignore[no-untyped-call]

    async def cleanup(self) -> None:
        await self._server.cleanup()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> CachedMCPServer:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cleanup()

    async def list_prompts(self) -> Any:
        return await self._server.list_prompts()

    async def get_prompt(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        return await self._server.get_prompt(name, arguments)

    async def list_resources(self, cursor: str | None = None) -> Any:
        return await self._server.list_resources(cursor)

    async def list_resource_templates(self, cursor: str | None = None) -> Any:
        return await self._server.list_resource_templates(cursor)

    async def read_resource(self, uri: str) -> Any:
        return await self._server.read_resource(uri)


def _wire(result: Any) -> Wire | OneCallOnly:
    """The wire form of a result; marked where it must not be kept, or could not be given back as it is."""
    if not isinstance(result, CallToolResult):
        return OneCallOnly({})
    wire = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
    return wire if CallToolResult.model_validate(wire) == result else OneCallOnly(wire)


def _with_hints(result: Any) -> Any:
    hints = "\n".join(event.hint for event in taken_hints())
    if not hints or not isinstance(result, CallToolResult):
        return result
    wire = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
    return CallToolResult.model_validate({**wire, "content": [*wire["content"], {"type": "text", "text": hints}]})


def _letting_loops_out(handler: Callable[[Any, Exception], Any]) -> Callable[[Any, Exception], Any]:
    def handle(ctx: Any, error: Exception) -> Any:
        if isinstance(error, AgentLoopDetectedError):
            raise ending(error)
        return handler(ctx, error)

    return handle


def _extracting(theirs: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    async def extract(context: Any) -> Mapping[str, Any] | None:
        data: Any = theirs(context) if theirs is not None else None
        if isawaitable(data):
            data = await data
        ours = (context.result_meta or {}).get(PROVENANCE)
        return data if ours is None else {**(data or {}), PROVENANCE: ours}

    return extract
