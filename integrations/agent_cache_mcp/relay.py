"""One client of the proxy and the server behind it: messages pass through, tool calls go through the cache.

Whatever the two say to each other that is no tool call (resources, prompts, sampling, progress, what a later protocol adds)
passes as it is; so the relay knows few of the protocol's words. Both its generations (with a handshake, and of 2026-07-28)
are served. Where bytes come from is :mod:`agent_cache_mcp.upstream`'s business and the front's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from agent_cache.adapters import OneCallOnly
from agent_cache.errors import AgentLoopDetectedError, ConfigurationError
from agent_cache.loops import OnLoop
from agent_cache_mcp.asking import Sessions
from agent_cache_mcp.calls import Answered, Asker, Run, ServerCache
from agent_cache_mcp.results import Wire, loop_result, text_of
from agent_cache_mcp.upstream import HttpServer, Message, ServerGoneError, Upstream
from agent_cache_mcp.watch import LIST_CHANGED, UPDATED, News, Watch

__all__ = ["Relay"]

_log = logging.getLogger("agent_cache.mcp")
_RESERVED = "io.modelcontextprotocol/"
_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_VERSION = "io.modelcontextprotocol/protocolVersion"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_SERVER_GONE = -32_000
_BAD_POLICY = -32_001
_MOST_PAGES = 1_000


class _AnsweredWithError(Exception):
    """The server answered a request with a JSON-RPC error."""

    def __init__(self, error: Message) -> None:
        super().__init__(str(error.get("message")))
        self.error = error


class Relay:
    """Between one client and its server.

    Args:
        cache: the server's tools.
        server: where requests go.
        send: sends a message to the client.
        dry_run: every tool runs; what the cache would have done is only said.
        on_loop: as for :class:`~agent_cache.AgentCacheSession`; None looks for no loops.
        session_id: a name for the client's session.
    """

    def __init__(
        self,
        cache: ServerCache,
        server: Upstream,
        send: Callable[[Message], Awaitable[None]],
        *,
        dry_run: bool = False,
        on_loop: OnLoop | None = None,
        session_id: str = "proxy",
    ) -> None:
        self._cache = cache
        self._server = server
        self._send = send
        self._dry_run = dry_run
        self._sessions = Sessions(on_loop, {})
        self._session_id = session_id
        self._watch = Watch(cache)
        self._own = (f"agent-cache-{uuid.uuid4().hex[:12]}-{number}" for number in count(1))
        self._asked: dict[str, asyncio.Future[Message]] = {}
        self._streams: dict[str, asyncio.Queue[Message | None]] = {}
        self._waiting: dict[str, Any] = {}  # the client's requests that passed, by the text of their id
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshake: Message | None = None
        self._greeting: str | None = None  # the id of the client's initialize
        self._can_subscribe = False
        self._wanted_by_client: set[str] = set()
        self._learned = False
        self._watching = False
        self._learning = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._running = False
        self._wrong: ConfigurationError | None = None
        self.counts = {"calls": 0, "hits": 0}

    async def start(self) -> None:
        """Start the server.

        Raises:
            ServerGoneError: there is none.
        """
        await self._server.start(self._from_server, self._ended)
        self._running = True

    async def close(self) -> None:
        """The client has gone."""
        for task in [*self._calls.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._calls.values(), *self._tasks, return_exceptions=True)
        await self._watch.stop()
        await self._server.close()

    # -- from the client -----------------------------------------------------------------------------------------------------

    async def from_client(self, message: Message) -> None:
        """One message of the client."""
        method, key = message.get("method"), _key(message.get("id"))
        if method == "tools/call" and "id" in message:
            task = self._calls[key] = asyncio.create_task(self._answer_call(message))
            task.add_done_callback(lambda _: self._calls.pop(key, None))
            return
        if method == "notifications/cancelled":
            call = self._calls.get(_key((message.get("params") or {}).get("requestId")))
            if call is not None:
                call.cancel()
                return
        if method == "initialize":
            self._handshake, self._greeting = message, key
        if method in ("resources/subscribe", "resources/unsubscribe") and await self._is_ours(message):
            return
        if method is not None and "id" in message:
            self._waiting[key] = message["id"]
        try:
            await self._pass_on(message)
        except ServerGoneError as error:
            self._waiting.pop(key, None)
            if method is not None and "id" in message:
                await self._send(_error(message["id"], _SERVER_GONE, str(error)))
        if method == "notifications/initialized":
            self._spawn(self._learn_early())

    async def _is_ours(self, message: Message) -> bool:
        """A subscription the client gives up and we go on with is answered here."""
        uri = str((message.get("params") or {}).get("uri"))
        if message["method"] == "resources/subscribe":
            self._wanted_by_client.add(uri)
            return False
        self._wanted_by_client.discard(uri)
        if not self._watch.follows(uri):
            return False
        await self._send({"jsonrpc": "2.0", "id": message.get("id"), "result": {}})
        return True

    async def _pass_on(self, message: Message) -> None:
        if not self._running:
            await self._restart(after=message.get("method"))
        await self._server.send(message)

    async def _restart(self, after: str | None) -> None:
        """Start the server again, and greet it as the client once did."""
        async with self._starting:
            if self._running:
                return
            await self._server.start(self._from_server, self._ended)
            self._running = True
            _log.warning("%s: the server was started again", self._cache.server)
            greeting = self._handshake
            if greeting is None or after == "initialize":
                return
            await self._server_says({**greeting, "id": next(self._own)})
            await self._server.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    # -- from the server -----------------------------------------------------------------------------------------------------

    async def _from_server(self, message: Message) -> None:
        method = message.get("method")
        if method is None:
            await self._answered(message)
            return
        if "id" not in message:
            params = message.get("params") or {}
            stream = self._streams.get(_key((params.get("_meta") or {}).get(_SUBSCRIPTION)))
            if stream is not None:
                stream.put_nowait(message)
                return
            uri = params.get("uri")
            if method in (LIST_CHANGED, UPDATED):
                await self._watch.heard((method, None if uri is None else str(uri)))
            if method == UPDATED and self._watch.follows(str(uri)) and str(uri) not in self._wanted_by_client:
                return
        await self._send(message)

    async def _answered(self, message: Message) -> None:
        key = _key(message.get("id"))
        asked = self._asked.pop(key, None)
        if asked is not None:
            if not asked.done():
                asked.set_result(message)
            return
        if key in self._streams:
            self._streams[key].put_nowait(None)
            return
        if self._waiting.pop(key, None) is None:
            return  # nobody waits for it any more
        if key == self._greeting:
            resources = ((message.get("result") or {}).get("capabilities") or {}).get("resources") or {}
            self._can_subscribe = bool(resources.get("subscribe"))
        await self._send(message)

    async def _ended(self, reason: str) -> None:
        """The server is gone: whoever waits is told, and nothing it ever said is believed any more."""
        self._running = self._learned = self._watching = False
        _log.error("%s: %s", self._cache.server, reason)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ServerGoneError(reason))
        self._asked.clear()
        for stream in self._streams.values():
            stream.put_nowait(None)
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            await self._send(_error(request, _SERVER_GONE, reason))
        await self._watch.lost()

    # -- requests of our own -------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, params: Message) -> Message:
        """Ask the server; its result.

        Raises:
            _AnsweredWithError: it answered with one.
            ServerGoneError: it is gone.
        """
        if not self._running:
            await self._restart(after=method)
        return await self._server_says({"jsonrpc": "2.0", "id": next(self._own), "method": method, "params": params})

    async def _server_says(self, request: Message) -> Message:
        key = _key(request["id"])
        asked = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            await self._server.send(request)
            answer = await asked
        except asyncio.CancelledError:
            if self._running and request["method"] != "initialize":
                self._spawn(self._cancel(request))
            raise
        finally:
            self._asked.pop(key, None)
        if "error" in answer:
            raise _AnsweredWithError(answer["error"])
        result: Message = answer.get("result") or {}
        return result

    async def _cancel(self, request: Message) -> None:
        params: Message = {"requestId": request["id"], "reason": "nobody waits for it any more"}
        meta = _reserved(request.get("params"))
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {**params, **meta}}
        try:
            await self._server.send(message)
        except ServerGoneError:
            _log.debug("the server has gone before a request could be cancelled")

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- tools ---------------------------------------------------------------------------------------------------------------

    async def _learn_early(self) -> None:
        try:
            await self._learn({})
        except (ConfigurationError, ServerGoneError, _AnsweredWithError) as error:
            _log.error("%s: %s", self._cache.server, error)

    async def _learn(self, meta: Message) -> None:
        """Find out what tools there are, once, and again when the server says that they changed.

        Raises:
            ConfigurationError: a policy that fits no tool, or not its tool.
        """
        if self._wrong is not None:
            raise self._wrong
        if self._learned and not self._watch.tools_changed:
            return
        async with self._learning:
            if self._learned and not self._watch.tools_changed:
                return
            again = self._watch.tools_changed
            self._cache.protocol = (meta.get("_meta") or {}).get(_VERSION)
            self._watch.tools_changed = False
            try:
                tools = await self._list_tools(meta)
            except _AnsweredWithError as error:
                _log.warning("%s does not list its tools: %s", self._cache.server, error)
                tools = []
            if isinstance(self._server, HttpServer):
                self._server.learned(tools)
            try:
                (self._cache.relearn if again else self._cache.learn)(tools)
            except ConfigurationError as error:
                self._wrong = error
                raise
            self._learned = True
            if not self._watching:
                self._watching = True
                await self._watch.start(_Source(self, meta))

    async def _list_tools(self, meta: Message) -> list[Message]:
        tools: list[Message] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._ask("tools/list", meta if cursor is None else {**meta, "cursor": cursor})
            tools += page.get("tools") or []
            cursor = page.get("nextCursor")
            if cursor is None:
                return tools
        raise ConfigurationError("server", self._cache.server, f"its list of tools has more than {_MOST_PAGES} pages")

    async def _answer_call(self, message: Message) -> None:
        request, params = message["id"], message.get("params") or {}
        try:
            await self._learn(_reserved(params))
            result = await self._call(params)
        except AgentLoopDetectedError as loop:
            result = loop_result(str(loop))
        except _AnsweredWithError as failure:
            await self._send({"jsonrpc": "2.0", "id": request, "error": failure.error})
            return
        except ServerGoneError as gone:
            await self._send(_error(request, _SERVER_GONE, str(gone)))
            return
        except ConfigurationError as wrong:
            await self._send(_error(request, _BAD_POLICY, f"agent-cache mcp-proxy: {wrong}"))
            return
        if _VERSION in (params.get("_meta") or {}):
            result.setdefault("resultType", "complete")
        await self._send({"jsonrpc": "2.0", "id": request, "result": result})

    async def _call(self, params: Message) -> Wire:
        name, arguments = str(params.get("name")), params.get("arguments") or {}
        meta = params.get("_meta") or {}
        live = bool(params.keys() & {"inputResponses", "requestState", "task"})
        await self._watch.follow(self._cache.followed(name, arguments))

        async def run() -> Wire | OneCallOnly:
            return await self._ask("tools/call", params)

        protocol = meta.get(_VERSION)
        asker = Asker(meta=meta, protocol=None if protocol == self._cache.protocol else protocol or "")
        async with self._sessions.around(self._session_id, None):
            answer = await self._cache.call(name, arguments, run, asker, live=live)
        self.counts["calls"] += 1
        self.counts["hits"] += not answer.executed
        if self._dry_run:
            return await self._reported(name, arguments, answer, run)
        if answer.kind != "read":
            return answer.result
        return answer.noted

    async def _reported(self, name: str, arguments: Message, answer: Answered, run: Run) -> Wire:
        """What the tool says now, whatever the cache has; and what the cache would have said, on the log."""
        call = f"{name} {json.dumps(arguments, ensure_ascii=False)[:200]}"
        if answer.executed:
            resources = ", ".join(self._cache.policy(name).resources)
            done = {"read": "kept its answer", "write": f"dropped {resources}"}.get(answer.kind, "let it pass")
            _log.info("dry run: %s: would have run it and %s", call, done)
            return answer.result
        live = await run()
        result: Wire = live.result if isinstance(live, OneCallOnly) else live
        same = "the same" if text_of(result) == text_of(answer.result) else "ANOTHER"
        age = "" if answer.age is None else f" of {answer.age:.1f} s ago"
        _log.info("dry run: %s: would have given its answer%s; it says %s now", call, age, same)
        return result


class _Source:
    """News through the relay's own requests; see :class:`~agent_cache_mcp.watch.Source`."""

    def __init__(self, relay: Relay, meta: Message) -> None:
        self._relay = relay
        self._meta = meta
        self.listens = bool(meta)
        self.subscribes = not meta and relay._can_subscribe

    @asynccontextmanager
    async def listen(self, uris: tuple[str, ...]) -> AsyncIterator[AsyncIterator[News]]:
        relay = self._relay
        wanted: Message = {"toolsListChanged": True}
        if uris:
            wanted["resourceSubscriptions"] = list(uris)
        name = next(relay._own)
        request = {
            "jsonrpc": "2.0",
            "id": name,
            "method": "subscriptions/listen",
            "params": {**self._meta, "notifications": wanted},
        }
        heard: asyncio.Queue[Message | None] = asyncio.Queue()
        relay._streams[_key(name)] = heard
        try:
            await relay._server.send(request)
            first = await heard.get()
            if first is None or first.get("method") != _ACKNOWLEDGED:
                raise ServerGoneError("the server opens no stream of news")
            yield _events(heard)
        finally:
            del relay._streams[_key(name)]
            if relay._running:
                relay._spawn(relay._cancel(request))

    async def subscribe(self, uri: str) -> None:
        await self._relay._ask("resources/subscribe", {**self._meta, "uri": uri})


async def _events(heard: asyncio.Queue[Message | None]) -> AsyncIterator[News]:
    while (message := await heard.get()) is not None:
        uri = (message.get("params") or {}).get("uri")
        yield str(message.get("method")), None if uri is None else str(uri)


def _key(request: object) -> str:
    """An id as a key: ``1`` is not ``"1"``."""
    return json.dumps(request)


def _error(request: object, code: int, text: str) -> Message:
    return {"jsonrpc": "2.0", "id": request, "error": {"code": code, "message": text}}


def _reserved(params: Mapping[str, Any] | None) -> Message:
    """What the protocol of 2026-07-28 wants in the ``_meta`` of every request, from one the client made."""
    meta = (params or {}).get("_meta") or {}
    kept = {name: value for name, value in meta.items() if name.startswith(_RESERVED)}
    return {"_meta": kept} if _VERSION in kept else {}
