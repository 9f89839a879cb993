"""The door of a server made with the official SDK (mcp 2.x): an extension that intercepts ``tools/call``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from agent_cache_mcp.versions import require

require("mcp", (2,), "mcp")

from mcp.server.auth.middleware.auth_context import get_access_token  # noqa: E402 - after the version was looked at
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext  # noqa: E402
from mcp.server.extension import Extension  # noqa: E402
from mcp.types import CallToolRequestParams, CallToolResult  # noqa: E402
from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: E402

from agent_cache.adapters import OneCallOnly  # noqa: E402
from agent_cache.backends.base import Backend  # noqa: E402
from agent_cache.errors import AgentLoopDetectedError, ConfigurationError  # noqa: E402
from agent_cache.loops import OnLoop  # noqa: E402
from agent_cache_mcp.asking import Sessions, principal_of, told  # noqa: E402
from agent_cache_mcp.calls import Asker, PolicyMapping, ServerCache  # noqa: E402
from agent_cache_mcp.results import Wire, loop_result  # noqa: E402

__all__ = ["AgentCacheExtension"]

Identity = Callable[[ServerRequestContext[Any, Any]], Mapping[str, object] | None]


class AgentCacheExtension(Extension):
    """Answers a server's reads from the cache, and lets its writes invalidate.

    ::

        cache = AgentCacheExtension("crm", policies={"get_user": {"kind": "read", "resource": "user:{user_id}"}})
        server = MCPServer("crm", extensions=[cache])
        cache.attach(server)

    A tool can say itself what it is, in its ``meta``: ``{"agent_cache": {"kind": "read", "resource": "user:{user_id}"}}``.
    Answers are kept apart by access token (or, without one, by the credentials in the request's headers), unless the
    policy says a ``scope``.

    Args:
        server: a name for the server.
        policies: by tool name, patterns allowed.
        identity: from a request's context, who is asking, for scopes: ``{"tenant": "acme", "user": "u1"}``.
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

    identifier = "agent-cache.dev/tools"

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
        self._server: Any = None
        self._checking = asyncio.Lock()

    def attach(self, server: Any) -> None:
        """Say whose extension this is; the SDK does not.

        Raises:
            ConfigurationError: not an ``MCPServer``.
        """
        if not callable(getattr(server, "list_tools", None)):
            raise ConfigurationError("server", server, "give the MCPServer this extension was made for")
        self._server = server

    async def check(self) -> None:
        """Look at the server's tools: at a start, or after some were added, removed or changed.

        Raises:
            ConfigurationError: a policy that fits no tool, or not its tool; or nothing is attached.
        """
        if self._server is None:
            raise ConfigurationError("server", None, "call attach(server) after making the server")
        tools = await self._server.list_tools()
        self._cache.learn(tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in tools)

    async def tools_changed(self) -> None:
        """Forget what is known of the tools, and everything they answered."""
        self._cache.forget()
        await self._cache.drop_all()

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """One call. What is part of a longer exchange (input responses, a task) goes through."""
        if not self._cache.knows(params.name):
            async with self._checking:
                if not self._cache.knows(params.name):
                    await told(self.check())
        made: list[HandlerResult] = []

        async def run() -> Wire | OneCallOnly:
            made.append(await call_next(ctx))
            return _wire(made[-1])

        headers = getattr(ctx.request, "headers", None)
        asker = Asker(principal_of(get_access_token(), headers), params.meta)
        live = params.input_responses is not None or params.request_state is not None or params.task is not None
        identity = self._identity(ctx) if self._identity is not None else None
        try:
            async with self._sessions.around(_session_id(ctx), identity):
                answer = await self._cache.call(params.name, params.arguments, run, asker, live=live)
        except AgentLoopDetectedError as loop:
            return CallToolResult.model_validate(loop_result(str(loop)))
        result: HandlerResult = answer.handed_on(made, CallToolResult)
        return result


def _wire(result: HandlerResult) -> Wire | OneCallOnly:
    if not isinstance(result, CallToolResult):
        return OneCallOnly({})
    wire = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
    return wire if CallToolResult.model_validate(wire) == result else OneCallOnly(wire)


def _session_id(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """The client's session, where one lasts longer than a request: not in the protocol of 2026-07-28."""
    connection: Any = getattr(ctx.session, "_connection", None)
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or connection is None:
        return None
    found: str = connection.state.setdefault("agent_cache_session", uuid.uuid4().hex)
    return found
