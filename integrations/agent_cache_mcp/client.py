"""The client's door: an official-SDK client whose tool calls go through the cache.

Everything else (resources, prompts, ...) is the client's own. Listening to the server's news is
:mod:`agent_cache_mcp.watch`'s business; what a call may be answered with, :mod:`agent_cache_mcp.calls`'.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from mcp.types import CallToolResult, PaginatedRequestParams

from agent_cache.adapters import OneCallOnly
from agent_cache.backends.base import Backend
from agent_cache.errors import ConfigurationError
from agent_cache_mcp.calls import Asker, PolicyMapping, ServerCache
from agent_cache_mcp.results import Wire
from agent_cache_mcp.sessions import SessionSource
from agent_cache_mcp.watch import ServerNews, Watch

__all__ = ["CachedClient", "cached_session"]

_rounds: ContextVar[list[object] | None] = ContextVar("agent_cache_mcp_rounds", default=None)
_MOST_PAGES = 1_000


class CachedClient:
    """A client of one MCP server that reads through the cache; use it as ``async with``.

    ::

        async with CachedClient(Client("http://localhost:8000/mcp"), "crm", policies={...}) as client:
            result = await client.call_tool("get_user", {"user_id": 7})

    A tool that no policy names, and that does not say in its ``_meta`` what it is, counts as a write to everything of this
    server. On a hit, ``_meta["agent_cache"]`` of the result is ``{"hit": True, "age": seconds, "tags": [...]}``: how old it is
    and the resources it depends on, below this server's name.

    Args:
        client: an ``mcp.client.client.Client`` (entered or not; then it is entered here), or a ``ClientSession`` that is
            initialized (the only kind in mcp 1.x).
        server: a name for the server; what is cached of it is apart from every other's.
        policies: by tool name, patterns allowed: :class:`~agent_cache.adapters.ToolPolicy`, or mappings such as
            ``{"kind": "read", "resource": "user:{user_id}"}``, or :class:`~agent_cache.adapters.Policies`. Resources
            may be URIs of the server (``user://{user_id}``): then its notifications invalidate.
        principal: whom this connection speaks for, as a text (a user's id; never the credential). Answers are shared
            among connections of one principal; without one, with no other connection. A policy with a ``scope`` says
            itself who shares: ``"global"``, ``"session"``, or a field of the ambient session's identity.
        trust_annotations: believe ``readOnlyHint``: only for servers you trust.
        open_world_ttl: with it, seconds a read-only tool with ``openWorldHint`` may be answered from the cache;
            without, such tools run every time.
        backend: where answers are kept; else the session's, the configured one, or memory.
        watch: listen to what the server says has changed.
        news: of a ``ClientSession``: the :class:`ServerNews` it was made with as ``message_handler``.

    Raises:
        ConfigurationError: on entering: a policy for a tool the server does not have, or that does not fit its tool.
    """

    def __init__(
        self,
        client: Any,
        server: str,
        *,
        policies: PolicyMapping | None = None,
        principal: str | None = None,
        trust_annotations: bool = False,
        open_world_ttl: float | None = None,
        backend: Backend | None = None,
        watch: bool = True,
        news: ServerNews | None = None,
    ) -> None:
        if not callable(getattr(client, "call_tool", None)):
            raise ConfigurationError("client", client, "give an mcp Client or ClientSession")
        if principal is not None and (not isinstance(principal, str) or not principal):
            raise ConfigurationError("principal", principal, "give a text, or None for this connection alone")
        self._client = client
        self._cache = ServerCache(
            server,
            policies,
            trust_annotations=trust_annotations,
            open_world_ttl=open_world_ttl,
            backend=backend,
            partition=f"={principal}" if principal is not None else uuid.uuid4().hex,
        )
        self._watch = Watch(self._cache) if watch else None
        self._news = news or ServerNews()
        self._learning = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._has_session = hasattr(type(client), "session")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._client, name)

    @property
    def session(self) -> Any:
        """The ``ClientSession`` underneath."""
        return self._client.session if self._has_session else self._client

    async def __aenter__(self) -> CachedClient:
        stack = AsyncExitStack()
        try:
            await self._open(stack)
        except BaseException:
            await stack.aclose()  # without the error: the SDK's task groups would wrap it
            raise
        self._stack = stack
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        if self._has_session and not self._entered():
            if self._watch is not None and hasattr(self._client, "message_handler"):
                self._client.message_handler = self._news.before(self._client.message_handler)
            await stack.enter_async_context(self._client)
        if self._has_session:
            _note_rounds(self.session)
        self._cache.protocol = self._protocol()
        self._cache.learn(await self._definitions())
        if self._watch is not None:
            self._news.watch = self._watch
            stack.push_async_callback(self._stop_watching, self._watch)
            await self._watch.start(SessionSource(self._client, self.session))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if error is None or _innermost(group) is not error:
                raise
            # the SDK's task groups wrap what the block raised; it goes on as it is

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *positional: Any, **options: Any
    ) -> Any:
        """Call a tool, or answer from the cache; takes and returns what the client's own ``call_tool`` does.

        Calls that carry ``input_responses`` or ``request_state`` reach the server. ``meta`` is part of what is asked.

        Raises:
            AgentLoopDetectedError: the ambient session's loop policy stopped the call.
            Exception: whatever the client raises.
        """
        await self._up_to_date()
        if self._watch is not None:
            await self._watch.follow(self._cache.followed(name, arguments))
        made: list[Any] = []

        async def run() -> Wire | OneCallOnly:
            rounds: list[object] = []
            token = _rounds.set(rounds)
            try:
                made.append(await self._client.call_tool(name, arguments, *positional, **options))
            finally:
                _rounds.reset(token)
            return _wire(made[-1], rounds)

        live = bool(options.get("input_responses")) or options.get("request_state") is not None
        asker = Asker(meta=options.get("meta"))
        answer = await self._cache.call(name, arguments, run, asker, live=live)
        return answer.handed_on(made, CallToolResult)

    async def _stop_watching(self, watch: Watch) -> None:
        self._news.watch = None
        await watch.stop()

    # -- what there is ---------------------------------------------------------------------------------------------------

    def _entered(self) -> bool:
        try:
            return self._client.session is not None
        except RuntimeError:
            return False

    def _protocol(self) -> str | None:
        version = getattr(self.session, "protocol_version", None)
        return version if isinstance(version, str) else None

    async def _up_to_date(self) -> None:
        """After the server said that its tools changed: find out what they are now."""
        if self._watch is None or not self._watch.tools_changed:
            return
        async with self._learning:
            if self._watch.tools_changed:
                self._watch.tools_changed = False
                self._cache.relearn(await self._definitions())

    async def _definitions(self) -> list[Wire]:
        found: list[Wire] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._page(cursor)
            found += [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in page.tools]
            cursor = page.next_cursor if hasattr(page, "next_cursor") else page.nextCursor
            if cursor is None:
                return found
        raise ConfigurationError("client", self._client, f"its list of tools has more than {_MOST_PAGES} pages")

    async def _page(self, cursor: str | None) -> Any:
        if self._has_session:
            return await self._client.list_tools(cursor=cursor, cache_mode="refresh")
        params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
        return await self._client.list_tools(params=params)


def cached_session(session: Any, server: str, **options: Any) -> CachedClient:
    """The same for a ``ClientSession`` that is initialized; ``async with cached_session(session, "crm", ...) as tools:``.

    To hear what the server says has changed, in the legacy protocol and in mcp 1.x, make one :class:`ServerNews`, give it
    to the ``ClientSession`` as ``message_handler`` and here as ``news``.

    Raises:
        ConfigurationError: as :class:`CachedClient`.
    """
    return CachedClient(session, server, **options)


def _note_rounds(session: Any) -> None:
    """Let every round of a call be noted: the client answers a server's questions by itself, and what it returns in the
    end does not tell."""
    if "call_tool" in vars(session):
        return  # it has been, by another wrapper of this session
    original = session.call_tool

    async def noted(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        rounds = _rounds.get()
        if rounds is not None:
            rounds.append(result)
        return result

    vars(session)["call_tool"] = noted


def _wire(result: Any, rounds: list[object]) -> Wire | OneCallOnly:
    """The wire form of a result; marked where it must not be kept, or could not be given back as it is."""
    if not isinstance(result, CallToolResult):
        return OneCallOnly({})
    wire = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
    asked_back = any(not isinstance(each, CallToolResult) for each in rounds)
    if asked_back or CallToolResult.model_validate(wire) != result:
        return OneCallOnly(wire)
    return wire


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
