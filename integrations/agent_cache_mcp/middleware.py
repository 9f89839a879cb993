"""The door of a FastMCP 4 server: a middleware around ``tools/call``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from agent_cache_mcp.versions import require

require("fastmcp", (4,), "fastmcp")

from fastmcp.server.context import Context  # noqa: E402 - after the version was looked at
from fastmcp.server.dependencies import get_access_token, get_http_headers  # noqa: E402
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext  # noqa: E402
from fastmcp.server.providers.aggregate import AggregateProvider  # noqa: E402
from fastmcp.tools.base import Tool, ToolResult  # noqa: E402
from mcp.types import CallToolRequestParams, CallToolResult  # noqa: E402
from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: E402

from agent_cache.adapters import OneCallOnly  # noqa: E402
from agent_cache.backends.base import Backend  # noqa: E402
from agent_cache.errors import AgentLoopDetectedError  # noqa: E402
from agent_cache.loops import OnLoop  # noqa: E402
from agent_cache_mcp.asking import Sessions, principal_of, told  # noqa: E402
from agent_cache_mcp.calls import Asker, PolicyMapping, ServerCache  # noqa: E402
from agent_cache_mcp.results import Wire, loop_result  # noqa: E402

__all__ = ["AgentCacheMiddleware"]

Call = MiddlewareContext[CallToolRequestParams]
Identity = Callable[[Call], Mapping[str, object] | None]


class AgentCacheMiddleware(Middleware):
    """Answers a FastMCP server's reads from the cache, and lets its writes invalidate.

    ::

        server = FastMCP("crm")
        server.add_middleware(AgentCacheMiddleware("crm", policies={"get_user": {"kind": "read", "resource": "user:{id}"}}))

    A tool can say itself what it is, in its ``meta``: ``{"agent_cache": {"kind": "read", "resource": "user:{id}"}}``.
    Whether the caller may use the tool is asked before every answer. Answers are kept apart by access token (or, without
    one, by the credentials in the request's headers), and those of a tool that is handed its ``Context`` or another
    dependency by the client's session too, unless its policy says a ``scope``; where there is no session either, such
    a tool runs every time.

    Args:
        server: a name for the server.
        policies: by tool name, patterns allowed.
        identity: from the middleware's context, who is asking, for scopes: ``{"tenant": "acme", "user": "u1"}``.
        trust_annotations: take ``readOnlyHint`` for a policy.
        open_world_ttl: with it, seconds a read-only tool with ``openWorldHint`` may be answered from the cache.
        backend: where answers are kept; else the configured one, or memory.
        on_loop: as for :class:`~agent_cache.AgentCacheSession`; None looks for no loops. A session of the protocol is
            often longer than an agent's run, so this is for servers whose clients open one per run. The model is told
            of a loop in a result with ``is_error``.
        session_options: for :class:`~agent_cache.AgentCacheSession`, such as ``{"max_tool_repeats": 10}``.

    Raises:
        ConfigurationError: naming the parameter; for what does not fit a tool, when :meth:`check` runs, at the latest
            before the first tool does.
    """

    def __init__(
        self,
        server: str,
        policies: PolicyMapping | None = None,
        *,
        identity: Identity | None = None,
        trust_annotations: bool = False,
        open_world_ttl: float | None = None,
        backend: Backend | None = None,
        on_loop: OnLoop | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._cache = ServerCache(
            server,
            policies,
            trust_annotations=trust_annotations,
            open_world_ttl=open_world_ttl,
            backend=backend,
            strict=True,
        )
        self._identity = identity
        self._sessions = Sessions(on_loop, session_options or {})
        self._checked = False
        self._checking = asyncio.Lock()
        self._tools: dict[str, tuple[Tool, bool]] = {}

    async def check(self, server: Any) -> None:
        """Look at all tools of the ``FastMCP`` server, at its start.

        Raises:
            ConfigurationError: a policy that fits no tool, or not its tool.
        """
        tools = await AggregateProvider.list_tools(server)  # the server's own leaves out what nobody here may use
        self._cache.learn([_definition(tool) for tool in tools])
        self._checked = True

    async def tools_changed(self) -> None:
        """Forget what is known of the tools, and everything they answered."""
        self._tools.clear()
        self._checked = False
        self._cache.forget()
        await self._cache.drop_all()

    async def on_call_tool(self, context: Call, call_next: CallNext[CallToolRequestParams, ToolResult]) -> ToolResult:
        """One call. What is part of a longer exchange (input responses, a task) goes through."""
        message, inside = context.message, context.fastmcp_context
        tool = await inside.fastmcp.get_tool(message.name) if inside is not None else None
        if inside is None or tool is None:
            return await call_next(context)  # no such tool, or not for this caller: the server says it
        if not self._checked:
            async with self._checking:
                if not self._checked:
                    await told(self.check(inside.fastmcp))
        injected = self._met(tool, message.name)
        made: list[Any] = []

        async def run() -> Wire | OneCallOnly:
            made.append(await call_next(context))
            return _wire(made[-1])

        session_id = _session_id(inside)
        identity = self._identity(context) if self._identity is not None else None
        live = inside.input_responses is not None or inside.request_state is not None or message.task is not None
        try:
            async with self._sessions.around(session_id, identity):
                asker = _asker(context, session_id if injected else None, known=not injected or session_id is not None)
                answer = await self._cache.call(message.name, message.arguments, run, asker, live=live)
        except AgentLoopDetectedError as loop:
            return _tool_result(loop_result(str(loop)))
        if not made or not answer.executed:  # a failure of this call may have been answered by what was there
            return _tool_result(answer.noted)
        result: ToolResult = made[-1]
        if answer.kind != "read" or type(result) is not ToolResult:
            return result
        update = {"meta": answer.noted["_meta"]}
        raw, result = result._raw_mcp_result, result.model_copy(update=update)
        if raw is not None:  # what is sent then
            result._raw_mcp_result = raw.model_copy(update=update)
        return result

    def _met(self, tool: Tool, name: str) -> bool:
        """See to it that this tool's policy is known; whether it is handed more than the model's arguments."""
        met = self._tools.get(name)
        if met is None or met[0] is not tool:
            definition = _definition(tool)
            if met is None or _definition(met[0]) != definition:
                self._cache.learn([{**definition, "name": name}], whole=False)
            met = self._tools[name] = (tool, _is_injected(tool))
        return met[1]


def _definition(tool: Tool) -> Wire:
    wire: Wire = tool.to_mcp_tool().model_dump(by_alias=True, mode="json", exclude_none=True)
    return wire


def _is_injected(tool: Tool) -> bool:
    """Whether somebody other than the model fills in a parameter. A tool without a function here may do anything."""
    function = getattr(tool, "fn", None)
    if function is None:
        return True
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return bool(parameters.keys() - set(tool.parameters.get("properties", {})))


def _asker(context: Call, session_id: str | None, *, known: bool) -> Asker:
    """Who asks; for a tool that is handed the session, the session too."""
    principal = principal_of(get_access_token(), get_http_headers(include_all=True))
    if session_id is not None:
        principal = f"{principal}/{session_id}"
    return Asker(principal, context.message.meta, known=known)


def _session_id(inside: Context) -> str | None:
    """The client's session, where one lasts longer than a request."""
    request = inside.request_context
    if request is None or getattr(request, "protocol_version", "") in MODERN_PROTOCOL_VERSIONS:
        return None
    return inside.session_id


def _wire(result: Any) -> Wire | OneCallOnly:
    """A result's wire form; marked where it could not be given back as it is."""
    if type(result) is not ToolResult:
        return OneCallOnly({})
    whole = result._raw_mcp_result or CallToolResult(
        content=result.content,
        structured_content=result.structured_content,
        is_error=result.is_error,
        _meta=result.meta,
    )
    wire = whole.model_dump(by_alias=True, mode="json", exclude_unset=True)
    return wire if _tool_result(wire) == result else OneCallOnly(wire)


def _tool_result(wire: Mapping[str, Any]) -> ToolResult:
    whole = CallToolResult.model_validate(wire)
    made = ToolResult(content=whole.content, structured_content=whole.structured_content, meta=whole.meta)
    made.is_error = whole.is_error
    return made
