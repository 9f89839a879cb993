"""``agent-cache mcp-proxy``: its command line, and the two fronts a client can talk to, stdio and streamable HTTP.

stdout belongs to the protocol; everything said to people goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from queue import SimpleQueue
from typing import Any, BinaryIO

from agent_cache.adapters import Policies
from agent_cache.config import backend_from_url, configure
from agent_cache.config import settings as in_force
from agent_cache.errors import ConfigurationError
from agent_cache.loops import OnLoop
from agent_cache_mcp.asking import principal_of
from agent_cache_mcp.calls import ServerCache
from agent_cache_mcp.relay import Relay
from agent_cache_mcp.upstream import CommandServer, HttpServer, Message, ServerGoneError, Upstream

__all__ = ["Settings", "main", "serve_streams"]

_log = logging.getLogger("agent_cache.mcp")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MOST_SESSIONS = 1_000
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What one proxy does."""

    server: str
    policies: Policies
    command: tuple[str, ...] = ()
    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    principal: str | None = None
    trust_annotations: bool = False
    open_world_ttl: float | None = None
    dry_run: bool = False
    on_loop: OnLoop | None = None

    def cache(self, principal: str | None) -> ServerCache:
        """The cache for one client that speaks for ``principal``; None: for itself alone."""
        return ServerCache(
            self.server,
            self.policies,
            trust_annotations=self.trust_annotations,
            open_world_ttl=self.open_world_ttl,
            partition=uuid.uuid4().hex if principal is None else f"={principal}",
        )

    def upstream(self) -> Upstream:
        """A connection of its own to the server."""
        if self.url is not None:
            return HttpServer(self.url, dict(self.headers))
        return CommandServer(self.command)

    def relay(self, send: Send, *, principal: str | None, session_id: str) -> Relay:
        """What stands between one client and the server."""
        return Relay(
            self.cache(principal),
            self.upstream(),
            send,
            dry_run=self.dry_run,
            on_loop=None if self.dry_run else self.on_loop,
            session_id=session_id,
        )


# -- the command line ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, program: str = "agent-cache mcp-proxy") -> int:
    """Run the proxy until its client goes; the exit code: 0, or 2 for what is wrong with the command line."""
    parser = _parser(program)
    given = parser.parse_args(arguments)
    command = [*given.command]
    if command[:1] == ["--"]:
        command = command[1:]
    if bool(command) == (given.url is not None):
        parser.error("give the server: either `-- COMMAND ARGS...` or `--url URL`")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="agent-cache: %(message)s")
    if given.verbose or given.dry_run:
        logging.getLogger("agent_cache").setLevel(logging.INFO)
    try:
        settings = Settings(
            server=given.name or _name_of(command, given.url),
            policies=Policies.from_toml(given.policy) if given.policy else Policies(),
            command=tuple(command),
            url=given.url,
            headers=tuple(_header(text) for text in given.header),
            principal=given.principal,
            trust_annotations=given.trust_annotations,
            open_world_ttl=given.open_world_ttl,
            dry_run=given.dry_run,
            on_loop=given.on_loop,
        )
        settings.cache("checked")  # what is wrong with the settings is said now
        listen = None if given.listen is None else _address(given.listen)
        if given.backend:
            configure(backend=backend_from_url(given.backend, "--backend"))
    except (ConfigurationError, ImportError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    run = _over_stdio(settings) if listen is None else _over_http(settings, *listen)
    try:
        asyncio.run(_to_the_end(run))
    except KeyboardInterrupt:
        pass
    except ServerGoneError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    return 0


async def _to_the_end(run: Coroutine[Any, Any, None]) -> None:
    """Run, then let the backend write what it has not yet."""
    try:
        await run
    finally:
        backend: Any = in_force.default_backend()
        await backend.close()


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Put the cache before an MCP server. A tool that neither the policy file nor the server itself "
        "declares is a write: it drops everything cached of this server.",
    )
    parser.add_argument("--policy", metavar="FILE", help="TOML: [tools.NAME] with kind, resource, ttl, scope, ...")
    parser.add_argument("--url", help="a server over streamable HTTP, instead of a command")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="sent to --url (repeatable)"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="serve streamable HTTP at /mcp instead of stdio")
    parser.add_argument("--name", help="the server's name in the cache (else made from the command or URL)")
    parser.add_argument(
        "--principal", metavar="TEXT", help="whom the proxy speaks for; proxies of one principal share answers"
    )
    parser.add_argument("--backend", metavar="URL", help="memory://, disk:///path, redis://... (else AGENT_CACHE_URL)")
    parser.add_argument("--trust-annotations", action="store_true", help="believe the server's readOnlyHint")
    parser.add_argument(
        "--open-world-ttl", type=float, metavar="SECONDS", help="cache trusted open-world reads for so long"
    )
    parser.add_argument("--dry-run", action="store_true", help="run every tool; only report what would have been done")
    parser.add_argument("--on-loop", choices=("raise", "warn", "short_circuit", "staged"), help="look for loops")
    parser.add_argument("--verbose", action="store_true", help="say more on stderr")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ARGS...", help="the server's command")
    return parser


def _name_of(command: Sequence[str], url: str | None) -> str:
    """A name that another server does not have by accident."""
    whole = url if url is not None else json.dumps(list(command))
    label = "http" if url is not None else PurePath(command[0]).stem
    return f"{label}-{hashlib.blake2b(whole.encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError("--header", name, "write NAME:VALUE")
    return name.strip(), value.strip()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError("--listen", text, "write HOST:PORT, such as 127.0.0.1:8080")
    return host, int(port)


# -- stdio ---------------------------------------------------------------------------------------------------------------


async def _over_stdio(settings: Settings) -> None:
    """Serve the client at stdin and stdout. The descriptor of stdout is taken away from everybody else."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    await serve_streams(settings, sys.stdin.buffer, protocol)


async def serve_streams(settings: Settings, source: BinaryIO, target: BinaryIO) -> None:
    """Serve one client that writes lines to ``source`` and reads them from ``target``, until it closes the first.

    Raises:
        ServerGoneError: the server cannot be started.
    """
    out: SimpleQueue[bytes | None] = SimpleQueue()
    writer = threading.Thread(target=_write_lines, args=(out, target), daemon=True)
    writer.start()

    async def send(message: Message) -> None:
        out.put(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    relay = settings.relay(send, principal=settings.principal, session_id="stdio")
    try:
        await relay.start()
        async for line in _lines(source):
            await _relayed(line, relay, send)
    finally:
        await relay.close()
        out.put(None)
        await asyncio.to_thread(writer.join, 5)
    if relay.counts["calls"]:
        _log.info("%(hits)d of %(calls)d tool calls answered from the cache", relay.counts)


async def _relayed(line: bytes, relay: Relay, send: Send) -> None:
    if not line.strip():
        return
    try:
        parsed = json.loads(line)
    except ValueError as error:
        fault = {"code": -32_700, "message": f"Parse error: {error}"}
        await send({"jsonrpc": "2.0", "id": None, "error": fault})
        return
    for message in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(message, dict):
            await relay.from_client(message)


async def _lines(source: BinaryIO) -> AsyncIterator[bytes]:
    """Lines of a blocking stream. A thread of its own reads them: it cannot be stopped, and must not keep us."""
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(line: bytes | None) -> bool:
        try:
            loop.call_soon_threadsafe(read.put_nowait, line)
        except RuntimeError:  # the loop is over
            return False
        return True

    def run() -> None:
        try:
            for line in iter(source.readline, b""):
                if not put(line):
                    return
        except (OSError, ValueError) as error:  # closed under the reader
            _log.debug("reading ended: %r", error)
        put(None)

    threading.Thread(target=run, daemon=True).start()
    while (line := await read.get()) is not None:
        yield line


def _write_lines(lines: SimpleQueue[bytes | None], target: BinaryIO) -> None:
    while (line := lines.get()) is not None:
        try:
            target.write(line)
            target.flush()
        except (OSError, ValueError) as error:
            _log.debug("the client reads no more: %r", error)
            return


# -- streamable HTTP -------------------------------------------------------------------------------------------------------


async def _over_http(settings: Settings, host: str, port: int) -> None:
    import uvicorn

    app = _HttpFront(settings, host)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.create_server((host, port)) as listening:
        sys.stderr.write(f"agent-cache: listening on http://{host}:{listening.getsockname()[1]}/mcp\n")
        sys.stderr.flush()
        async with app.running():
            await server.serve(sockets=[listening])


async def _relay_all(read: Any, relay: Relay) -> None:
    """Everything a session says, until it ends."""
    import anyio

    while True:
        try:
            item = await read.receive()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            return
        if not isinstance(item, Exception):
            await relay.from_client(item.message.model_dump(by_alias=True, mode="json", exclude_unset=True))


class _HttpFront:
    """An ASGI application: one relay, with a connection of its own to the server, for each session of the protocol.

    It speaks the protocol's generation that has sessions; clients of the later one fall back to it.
    """

    def __init__(self, settings: Settings, host: str) -> None:
        self._settings = settings
        self._local = host in _LOOPBACK
        self._sessions: dict[str, tuple[Any, str | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response

        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.url.path.rstrip("/") != "/mcp":
            await Response("Not found", 404)(scope, receive, send)
            return
        if request.headers.get("mcp-protocol-version", "") > "2026":
            fault = {"code": -32_601, "message": "this proxy speaks the protocol with a handshake"}
            answer = JSONResponse({"jsonrpc": "2.0", "id": None, "error": fault}, 404)
            await answer(scope, receive, send)
            return
        who = principal_of(None, request.headers)
        name = request.headers.get("mcp-session-id")
        if name is None:
            if len(self._sessions) >= _MOST_SESSIONS:
                await Response("Too many open sessions", 503)(scope, receive, send)
                return
            try:
                transport = await self._open(who)
            except ServerGoneError as error:
                await Response(str(error), 502)(scope, receive, send)
                return
        else:
            transport, owner = self._sessions.get(name, (None, None))
            if transport is None or owner != who:
                await Response("Session not found", 404)(scope, receive, send)
                return
        await transport.handle_request(scope, receive, send)

    async def _open(self, who: str | None) -> Any:
        from mcp.server.streamable_http import StreamableHTTPServerTransport
        from mcp.server.transport_security import TransportSecuritySettings

        name = uuid.uuid4().hex
        hosts = [f"{each}:*" for each in _LOOPBACK]
        guard = TransportSecuritySettings(  # a page in a browser must not reach it under a name of its own
            enable_dns_rebinding_protection=self._local,
            allowed_hosts=hosts,
            allowed_origins=[f"http://{each}" for each in hosts],
        )
        transport = StreamableHTTPServerTransport(mcp_session_id=name, security_settings=guard)
        self._sessions[name] = transport, who
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._serve(name, transport, who, ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await ready
        return transport

    async def _serve(self, name: str, transport: Any, who: str | None, ready: asyncio.Future[None]) -> None:
        import anyio
        from mcp.shared.message import ServerMessageMetadata, SessionMessage

        from agent_cache_mcp.upstream import parsed

        async def send(write: Any, message: Message) -> None:
            related = ServerMessageMetadata(related_request_id=message["id"]) if "method" not in message else None
            try:
                await write.send(SessionMessage(parsed(message), metadata=related))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                _log.debug("the client has gone before its answer came")

        principal = self._settings.principal if who is None else f"{self._settings.principal}/{who}"
        try:
            async with transport.connect() as (read, write):
                relay = self._settings.relay(partial(send, write), principal=principal, session_id=name)
                try:
                    await relay.start()
                    ready.set_result(None)
                    await _relay_all(read, relay)
                finally:
                    await relay.close()
        except ServerGoneError as error:
            _log.error("%s", error)
            ready.set_exception(error)
        finally:
            self._sessions.pop(name, None)
            if not ready.done():
                ready.cancel()
