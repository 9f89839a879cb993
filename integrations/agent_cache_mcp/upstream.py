"""The server behind the proxy, as a place to send messages to: a command over stdio, or a URL over streamable HTTP.

Messages are the protocol's own JSON objects. What they mean is the relay's business (:mod:`agent_cache_mcp.relay`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["CommandServer", "Heard", "HttpServer", "Message", "ServerGoneError", "Upstream", "parsed"]

Message = dict[str, Any]
Heard = Callable[[Message], Awaitable[None]]
_CHUNK = 65_536
_PATIENCE = 5.0  # seconds a server has to end by itself
_log = logging.getLogger("agent_cache.mcp")


class ServerGoneError(Exception):
    """The server behind the proxy has ended, or cannot be reached; the text says how."""


class Upstream(Protocol):
    """Where messages go."""

    async def start(self, heard: Heard, ended: Callable[[str], Awaitable[None]]) -> None:
        """Connect. ``heard`` is called for each message, one after the other; ``ended`` once, with the reason.

        Raises:
            ServerGoneError: there is no such server.
        """
        ...

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ServerGoneError: nobody is there.
        """
        ...

    async def close(self) -> None:
        """Disconnect; ``ended`` is not called any more."""
        ...


class CommandServer:
    """A server that is a command, one JSON object per line on its stdin and stdout; its stderr is ours."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._environment = None if environment is None else dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, heard: Heard, ended: Callable[[str], Awaitable[None]]) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
            )
        except OSError as error:
            raise ServerGoneError(f"the server cannot be started: {self._command[0]}: {error}") from error
        self._reading = asyncio.create_task(self._read(self._process, heard, ended))

    async def _read(
        self, process: asyncio.subprocess.Process, heard: Heard, ended: Callable[[str], Awaitable[None]]
    ) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        pieces: list[bytes] = []
        while chunk := await process.stdout.read(_CHUNK):
            pieces.append(chunk)
            if b"\n" not in chunk:
                continue  # joined once it is whole: a line may have many megabytes
            *lines, rest = b"".join(pieces).split(b"\n")
            pieces = [rest]
            for line in lines:
                await _told(line, heard)
        code = await process.wait()
        await ended(f"the server ({self._command[0]}) ended with exit code {code}")

    async def send(self, message: Message) -> None:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise ServerGoneError(f"the server ({self._command[0]}) is not running")
        try:
            process.stdin.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ServerGoneError(f"the server ({self._command[0]}) has closed its input") from error

    async def close(self) -> None:
        process, self._process = self._process, None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None  # noqa: S101 - it was asked for
        process.stdin.close()  # the protocol's way to say good-bye
        for step in (process.terminate, process.kill):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
                return
            except TimeoutError:
                step()
        await process.wait()


async def _told(line: bytes, heard: Heard) -> None:
    if not line.strip():
        return
    try:
        message = json.loads(line)
    except ValueError:
        _log.warning("the server wrote a line that is no message: %.200r", line)
        return
    for each in message if isinstance(message, list) else [message]:
        if isinstance(each, dict):
            await heard(each)


class HttpServer:
    """A server at a URL, through the official SDK's transport."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._headers = dict(headers or {})
        self._write: Any = None
        self._serving: asyncio.Task[None] | None = None
        self._version: str | None = None
        self._schemas: dict[str, Any] = {}

    def learned(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """The tools' schemas, which say what arguments go into headers too."""
        self._schemas = {str(tool["name"]): tool.get("inputSchema") for tool in tools}

    async def start(self, heard: Heard, ended: Callable[[str], Awaitable[None]]) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(heard, ended, ready))
        await ready

    async def _serve(self, heard: Heard, ended: Callable[[str], Awaitable[None]], ready: asyncio.Future[None]) -> None:
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        reason = "its connection was closed"
        try:
            async with (
                create_mcp_http_client(headers=self._headers) as client,
                streamable_http_client(self._url, http_client=client) as streams,
            ):
                read, self._write = streams[0], streams[1]
                ready.set_result(None)
                async for item in read:
                    if isinstance(item, Exception):
                        _log.warning("from %s: %r", self._url, item)
                        continue
                    message = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
                    self._note_version(message)
                    await heard(message)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            reason = repr(_innermost(error))
        finally:
            self._write = None
        text = f"the server at {self._url} cannot be reached: {reason}"
        if not ready.done():
            ready.set_exception(ServerGoneError(text))
        else:
            await ended(text)

    async def send(self, message: Message) -> None:
        import anyio
        from mcp.shared.message import SessionMessage

        if self._write is None:
            raise ServerGoneError(f"the server at {self._url} is not connected")
        try:
            await self._write.send(SessionMessage(parsed(message), metadata=self._metadata(message)))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ServerGoneError(f"the server at {self._url} is not connected") from error

    def _note_version(self, message: Message) -> None:
        """What the handshake agreed on; every later request has to say it."""
        result = message.get("result")
        if isinstance(result, Mapping) and "protocolVersion" in result and "serverInfo" in result:
            self._version = str(result["protocolVersion"])

    def _metadata(self, message: Message) -> Any:
        """The headers that repeat parts of a message, in protocols that ask for it (mcp 2.x; 1.x does it by itself)."""
        from dataclasses import fields

        from mcp.shared.message import ClientMessageMetadata

        if "headers" not in {field.name for field in fields(ClientMessageMetadata)}:
            return None
        from mcp.shared import inbound

        method, params = message.get("method"), message.get("params") or {}
        said = (params.get("_meta") or {}).get("io.modelcontextprotocol/protocolVersion")
        headers: dict[str, str] = {}
        if said is None:
            if self._version is not None and method != "initialize":
                headers[inbound.MCP_PROTOCOL_VERSION_HEADER] = self._version
            return ClientMessageMetadata(headers=headers)
        headers[inbound.MCP_PROTOCOL_VERSION_HEADER] = str(said)
        if isinstance(method, str) and "id" in message:
            headers[inbound.MCP_METHOD_HEADER] = method
            named = inbound.NAME_BEARING_METHODS.get(method)
            if named is not None and isinstance(params.get(named), str):
                headers[inbound.MCP_NAME_HEADER] = inbound.encode_header_value(params[named])
            schema = self._schemas.get(str(params.get("name"))) if method == "tools/call" else None
            if schema is not None and inbound.find_invalid_x_mcp_header(schema) is None:
                mapped = inbound.x_mcp_header_map(schema)
                headers.update(inbound.mcp_param_headers(mapped, params.get("arguments") or {}))
        return ClientMessageMetadata(headers=headers)

    async def close(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def parsed(message: Message) -> Any:
    """The SDK's own message."""
    from mcp import types

    adapter: Any = getattr(types, "jsonrpc_message_adapter", None)
    if adapter is not None:
        return adapter.validate_python(message, by_name=False)
    model: Any = types.JSONRPCMessage  # mcp 1.x: a model of its own
    return model.model_validate(message)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
