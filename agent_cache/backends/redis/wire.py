"""One connection on one event loop. What is asked in one tick of the loop travels together.

Commands of several callers are sent in one write and answered in order; while a batch is under way the next one
gathers. Whoever needs to know the epoch shares one ``INFO replication`` at the end of its batch: it is answered by the
same server after everything before it. What replies mean, and what is done about failures, is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from agent_cache.backends.redis.records import epoch_bytes
from agent_cache.backends.redis.scripts import Script
from agent_cache.errors import BackendError

__all__ = ["Command", "Replies", "Wire", "WireDownError", "field_of"]

Command = tuple[Any, ...]
"""``(name, argument, …)``; a script is ``(script, number of keys, key, …, argument, …)``."""
_MAX_BATCH = 2_000
_LOOKS = frozenset({"MGET", "PTTL", "PING"})
"""Commands that change nothing: those that are equal and in one batch are sent once, since all who asked had asked
before it was sent."""
_OLDEST = (6, 2)
_GREETING = 1.0  # seconds in which a new connection must say which version it speaks to


class WireDownError(BackendError):
    """The connection could not be made, was lost, or said nothing in time.

    ``was_up``: it had worked before and was lost at once, so a new one may well work. ``is_outage``: it says something
    about the server, not only about this one request.
    """

    def __init__(self, text: str, *, was_up: bool = False, is_outage: bool = True) -> None:
        super().__init__(text)
        self.was_up = was_up
        self.is_outage = is_outage


@dataclass(slots=True)
class Replies:
    """What came back, in order: errors of single commands are exceptions among the replies.

    ``epoch``: of the server that answered; None where it was not asked for. ``made``: what was made of it; all who asked
    the same in one batch have the same replies, so nobody may change ``values``, and one of them opens them for all.
    """

    values: list[Any]
    epoch: bytes | None
    made: Any = None


@dataclass(slots=True)
class _Asked:
    commands: Sequence[Command]
    wants_epoch: bool
    reply: asyncio.Future[Replies]


class Wire:
    """The connection, made when first needed and made again after it was lost."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        where: str,
        op_timeout: float,
        epoch: bytes | None,
        count: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._where = where
        self._op_timeout = op_timeout
        self._own_epoch = epoch
        self._count = count
        self._queue: list[_Asked] = []
        self._pump: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._is_suspect = False
        self._progress = 0
        self._watch: asyncio.TimerHandle

    async def ask(self, commands: Sequence[Command], *, wants_epoch: bool = False) -> Replies:
        """Send and wait for all replies.

        Raises:
            WireDownError: nothing, or not all, came back; what was sent may have been carried out.
        """
        asked = _Asked(commands, wants_epoch, asyncio.get_running_loop().create_future())
        self._queue.append(asked)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._work())
        return await asked.reply

    async def _work(self) -> None:
        batch: list[_Asked] = []
        try:
            while self._queue:
                batch, self._queue = self._queue[:_MAX_BATCH], self._queue[_MAX_BATCH:]
                await self._carry(batch)
        finally:
            self._pump = None
            self._let_go(batch)

    def _let_go(self, batch: Sequence[_Asked] = ()) -> None:
        """Nobody waits for ever: the connection is being closed, or this is a bug of ours."""
        queue, self._queue = self._queue, []
        for asked in (*batch, *queue):
            if not asked.reply.done():
                text = f"Redis at {self._where}: the connection was closed"
                asked.reply.set_exception(WireDownError(text, is_outage=False))

    async def _carry(self, batch: list[_Asked]) -> None:
        if self._is_suspect:
            await self._drop()
        was_up = self._connection is not None
        try:
            if self._connection is None:
                self._connection = await self._open()
            async with asyncio.timeout(None) as limit:
                self._watch = asyncio.get_running_loop().call_later(
                    self._op_timeout, self._suspect, limit, self._progress, 0
                )
                try:
                    await self._send(batch)
                finally:
                    self._watch.cancel()
        except TimeoutError:
            await self._fail(batch, f"no answer within {self._op_timeout} s", was_up=False)
        except (RedisError, OSError, BackendError) as error:
            await self._fail(batch, _told(error), was_up=was_up)
        except asyncio.CancelledError:
            await self._drop()
            raise
        except Exception as error:  # noqa: BLE001 - a reply nobody can read: whoever waits has to hear of it
            await self._fail(batch, f"{type(error).__name__} in its reply", was_up=was_up)

    def _suspect(self, limit: asyncio.Timeout, progress: int, strikes: int) -> None:
        """Nothing came in time. If it was our own loop that was busy, what has come is read first: look twice more."""
        loop = asyncio.get_running_loop()
        if self._progress != progress:
            self._watch = loop.call_later(self._op_timeout, self._suspect, limit, self._progress, 0)
        elif strikes < 2:
            self._watch = loop.call_later(self._op_timeout / 10, self._suspect, limit, progress, strikes + 1)
        else:
            limit.reschedule(loop.time())

    async def _open(self) -> Any:
        try:
            connection = await self._connect()
        except TimeoutError:
            raise WireDownError(f"Redis at {self._where}: no connection in time") from None
        try:
            async with asyncio.timeout(max(self._op_timeout, _GREETING)):
                await self._check_version(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _check_version(self, connection: Any) -> None:
        """A server that is too old is said to be, once and clearly."""
        await connection.send_packed_command(connection.pack_command("INFO", "server"), check_health=False)
        try:
            told = await connection.read_response(disable_decoding=True)
        except ResponseError:
            return  # no right to ask: what is missing will show
        version = field_of(told, b"redis_version").split(b".")
        try:
            too_old = tuple(int(part) for part in version[:2]) < _OLDEST
        except ValueError:
            return
        if too_old:
            shown = b".".join(version).decode("ascii", "replace")
            raise WireDownError(f"Redis at {self._where} is version {shown}; agent_cache needs 6.2 or later")

    async def _send(self, batch: list[_Asked]) -> None:
        asks_epoch = self._own_epoch is None and any(asked.wants_epoch for asked in batch)
        connection = self._connection
        sent: list[Command] = []
        looks: dict[Command, int] = {}
        places: list[list[int]] = []
        for asked in batch:
            mine: list[int] = []
            for command in asked.commands:
                at = looks.setdefault(command, len(sent)) if command[0] in _LOOKS else len(sent)
                if at == len(sent):
                    sent.append(command)
                mine.append(at)
            places.append(mine)
        if asks_epoch:
            sent.append(("INFO", "replication"))
        self._count()
        await connection.send_packed_command(_packed(sent), check_health=False)
        replies = [await self._reply(connection) for _ in sent]
        unknown = [at for at, reply in enumerate(replies) if type(reply) is not list and _is_no_script(reply)]
        if unknown:
            await self._again(sent, replies, unknown, asks_epoch=asks_epoch)
        epoch: bytes | Exception | None = self._own_epoch
        if asks_epoch:
            epoch = self._epoch(replies[-1])
            if isinstance(epoch, WireDownError):
                self.distrust()  # whoever asks next has to find out who is in charge now
        known = epoch if isinstance(epoch, bytes) else None
        shared: dict[tuple[int, ...], Replies] = {}
        for asked, mine in zip(batch, places, strict=True):
            if asked.reply.done():
                continue  # its caller has left
            if asked.wants_epoch and isinstance(epoch, Exception):
                asked.reply.set_exception(epoch)
                continue
            which = tuple(mine)
            answer = shared.get(which)
            if answer is None:
                answer = shared[which] = Replies([replies[at] for at in mine], known)
            asked.reply.set_result(answer)

    async def _again(self, sent: list[Command], replies: list[Any], unknown: list[int], *, asks_epoch: bool) -> None:
        """The scripts Redis did not know (a restart, SCRIPT FLUSH) once more, in full; then the epoch, if it is wanted."""
        connection = self._connection
        anew: list[Command] = [("EVAL", sent[at][0].text, *sent[at][1:]) for at in unknown]
        if asks_epoch:
            anew.append(("INFO", "replication"))
        await connection.send_packed_command(_packed(anew), check_health=False)
        for at in [*unknown, -1] if asks_epoch else unknown:
            replies[at] = await self._reply(connection)

    async def _reply(self, connection: Any) -> Any:
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            reply = error
        self._progress += 1
        return reply

    def _epoch(self, reply: Any) -> bytes | Exception:
        if isinstance(reply, Exception) or not isinstance(reply, bytes):
            text = (
                f"Redis at {self._where} does not answer INFO replication ({_told(reply)}): nothing can be cached safely. "
                "Allow INFO to this user, or give epoch= and change it whenever data may have been lost"
            )
            return BackendError(text)
        role = field_of(reply, b"role")
        if role != b"master":
            return WireDownError(
                f"Redis at {self._where} is no primary (role {role.decode('ascii', 'replace')})", was_up=True
            )
        return epoch_bytes(field_of(reply, b"master_replid"))

    async def _fail(self, batch: list[_Asked], why: str, *, was_up: bool) -> None:
        await self._drop()
        text = why if why.startswith("Redis at ") else f"Redis at {self._where}: {why}"
        for asked in batch:
            if not asked.reply.done():
                asked.reply.set_exception(WireDownError(text, was_up=was_up))

    async def _drop(self) -> None:
        self._is_suspect = False
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except Exception:  # noqa: BLE001 - it is gone either way
                pass

    def distrust(self) -> None:
        """Make a new connection for what is asked next: the server may not be the one in charge any more."""
        self._is_suspect = True

    async def close(self) -> None:
        """Close the connection. A later :meth:`ask` opens it again."""
        pump = self._pump
        if pump is not None:
            pump.cancel()
            await asyncio.wait({pump})
            self._pump = None  # one that was cancelled before its first step has not said so itself
            self._let_go()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect()
            except (RedisError, OSError):
                pass


def _packed(commands: Sequence[Command]) -> bytes:
    """As they are sent: done here in one go, redis-py's way costs a read more than its tags."""
    pieces: list[bytes] = []
    for command in commands:
        if isinstance(command[0], Script):
            command = ("EVALSHA", command[0].sha, *command[1:])
        pieces.append(b"*%d\r\n" % len(command))
        for part in command:
            raw = part if type(part) is bytes else part.encode() if isinstance(part, str) else b"%d" % index(part)
            pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(pieces)


def _is_no_script(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and ("NOSCRIPT" in str(reply) or type(reply).__name__ == "NoScriptError")


def field_of(info: bytes, name: bytes) -> bytes:
    """One line of an INFO; empty if it is not there."""
    at = info.find(b"\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 2
    return info[start : info.find(b"\r", start)]


def _told(error: object) -> str:
    """An error for people. redis-py puts no password into its texts, and neither do we."""
    if isinstance(error, BackendError):
        return str(error)
    if isinstance(error, RedisConnectionError | OSError | RedisError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
