"""One connection on one event loop. What is asked in one tick of the loop travels together.

Commands of several callers are sent in one write and answered in order; while a batch is under way the next one
gathers. Reads are looks: those of a batch are one command. Whoever needs to know the epoch shares one
``INFO replication`` at the end of its batch: it is answered by the same server after everything before it. What replies
mean, and what is done about failures, is not decided here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from agent_cache.backends.redis.looks import Look, Looks
from agent_cache.backends.redis.plans import Group
from agent_cache.backends.redis.records import epoch_bytes
from agent_cache.backends.redis.resp import Command, packed
from agent_cache.backends.redis.stream import Stream, stream_of
from agent_cache.errors import BackendError

__all__ = ["Replies", "Wire", "WireDownError", "field_of"]

_MAX_BATCH = 2_000
_LOOKS = frozenset({"MGET", "PTTL", "PING"})
"""Commands that change nothing: those that are equal and in one batch are sent once, since all who asked had asked
before it was sent."""
_INFO = packed(("INFO", "replication"))
_OLDEST = (6, 2)
_GREETING = 1.0  # seconds in which a new connection must say which version it speaks to


class WireDownError(BackendError):
    """The connection could not be made, was lost, or said nothing in time.

    ``was_up``: it had worked before and was lost at once, so a new one may well work. ``is_outage``: it says something
    about the server, not only about this one request. ``cut_short``: the server took the connection away from under it.
    """

    def __init__(self, text: str, *, was_up: bool = False, is_outage: bool = True, cut_short: bool = False) -> None:
        super().__init__(text)
        self.was_up = was_up
        self.is_outage = is_outage
        self.cut_short = cut_short


@dataclass(slots=True)
class Replies:
    """What came back, in order: errors of single commands are exceptions among the replies.

    ``epoch``: of the server that answered; None where it was not asked for. All who asked the same in one batch have the
    same replies, so nobody may change ``values``.
    """

    values: list[Any]
    epoch: bytes | None


@dataclass(slots=True)
class _Asked:
    commands: Sequence[Command]
    wants_epoch: bool
    reply: asyncio.Future[Replies]


class _Batch:
    """What travels together."""

    __slots__ = ("asked", "looks", "was_up")

    def __init__(self) -> None:
        self.asked: list[_Asked] = []
        self.looks: dict[bytes, list[Looks]] = {}
        self.was_up = False
        """Whether it was sent on a connection that had worked before."""

    def waiting(self) -> Iterator[asyncio.Future[Any]]:
        """Whoever has not been answered and has not left."""
        for asked in self.asked:
            if not asked.reply.done():
                yield asked.reply
        for some in self.looks.values():
            for looks in some:
                for reply, _ in looks.waiting:
                    if not reply.done():
                        yield reply


class Wire:
    """The connection, made when first needed and made again after it was lost.

    Half duplex: a batch is under way, or none is; what is asked meanwhile waits for the next. All of it happens in
    callbacks of the loop: no task waits here but for a connection being made.
    """

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
        self._loop = asyncio.get_running_loop()
        self._next: deque[_Batch] = deque()
        self._room = 0  # in the last of them
        self._is_due = False  # the next batch is about to be sent
        self._under_way: _Batch | None = None
        self._sent: _Sent | None = None
        self._opening: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self._is_suspect = False
        self._heard_at = 0.0
        self._strikes = 0
        self._watch: asyncio.TimerHandle | None = None
        self._known_info: object = object()  # what a primary said last, word for word, and what that means
        self._known_epoch = b""

    # -- asking

    async def ask(self, commands: Sequence[Command], *, wants_epoch: bool = False) -> Replies:
        """Send and wait for all replies.

        Raises:
            WireDownError: nothing, or not all, came back; what was sent may have been carried out.
        """
        reply: asyncio.Future[Replies] = self._loop.create_future()
        self._gathering().asked.append(_Asked(commands, wants_epoch, reply))
        return await reply

    def look(self, group: Group, entry: bytes | None, *, wants_left: bool) -> asyncio.Future[Look]:
        """Fetch tags, and an entry if its key is given, with the epoch.

        The future raises WireDownError as :meth:`ask` does, and redis-py's ResponseError where the server refused.
        """
        batch = self._gathering()
        some = batch.looks.get(group.together)
        if some is None:
            some = batch.looks[group.together] = [Looks()]
        elif some[-1].full:
            some.append(Looks())
        reply: asyncio.Future[Look] = self._loop.create_future()
        some[-1].add(group, entry, reply, wants_left=wants_left)
        return reply

    def _gathering(self) -> _Batch:
        """The batch that is asked by next."""
        if not self._room:
            self._room = _MAX_BATCH
            self._next.append(_Batch())
        self._room -= 1
        if not self._is_due and self._under_way is None and self._opening is None:
            self._is_due = True
            self._loop.call_soon(self._start)
        return self._next[-1]

    # -- sending

    def _start(self) -> None:
        """At the end of a tick: send what has gathered, on a connection that is made first if there is none."""
        self._is_due = False
        if not self._next or self._under_way is not None or self._opening is not None:
            return
        if self._is_suspect:
            self._drop()
        if self._stream is None:
            self._opening = self._loop.create_task(self._open_and_send())
        else:
            self._send(self._stream, was_up=True)

    def _take(self) -> _Batch:
        batch = self._next.popleft()
        if not self._next:
            self._room = 0
        return batch

    def _send(self, stream: Stream, *, was_up: bool) -> None:
        self._under_way = batch = self._take()
        batch.was_up = was_up
        try:
            self._sent = sent = _Sent(batch, asks_epoch=self._own_epoch is None)
            self._count()
            self._write(stream, sent.packed(), sent.missing)
        except Exception as error:  # noqa: BLE001 - a command that cannot be sent: whoever waits has to hear of it
            self._fail(batch, f"{type(error).__name__} in what was to be sent", was_up=False)

    def _write(self, stream: Stream, data: bytes, replies: int) -> None:
        self._heard_at = self._loop.time()
        self._strikes = 0
        if self._watch is None:
            self._watch = self._loop.call_later(self._op_timeout, self._look_at_watch)
        stream.write(data, replies)

    def _look_at_watch(self) -> None:
        """Nothing came in time? If it was our own loop that was busy, what has come is read first: look twice more."""
        self._watch = None
        batch = self._under_way
        if batch is None:
            return
        left = self._heard_at + self._op_timeout - self._loop.time()
        if left <= 0:
            if self._strikes == 2:
                self._fail(batch, f"no answer within {self._op_timeout} s", was_up=False)
                return
            self._strikes += 1
            left = self._op_timeout / 10
        self._watch = self._loop.call_later(left, self._look_at_watch)

    # -- hearing

    def noticed(self) -> None:
        """Some of a reply has come: the server is not silent."""
        self._heard_at = self._loop.time()
        self._strikes = 0

    def heard(self, replies: list[Any]) -> None:
        """Replies have come."""
        self.noticed()
        batch = self._under_way
        try:
            self._collect(replies)
        except (RedisError, BackendError) as error:
            self._fail(batch, _told(error), was_up=batch is not None and batch.was_up)
        except Exception as error:  # noqa: BLE001 - a reply nobody can read: whoever waits has to hear of it
            self._fail(batch, f"{type(error).__name__} in its reply", was_up=batch is not None and batch.was_up)

    def _collect(self, replies: list[Any]) -> None:
        batch, sent, stream = self._under_way, self._sent, self._stream
        if batch is None or sent is None or stream is None:
            raise InvalidResponse("a reply to nothing")
        sent.take(replies)
        if sent.missing:
            return
        again = sent.again()
        if again is not None:
            self._write(stream, again, sent.missing)
            return
        self._answer(batch, sent)
        self._under_way = self._sent = None
        # after those who were answered just now: what they ask next goes with it
        self._is_due = True
        self._loop.call_soon(self._start)

    def _answer(self, batch: _Batch, sent: _Sent) -> None:
        epoch: bytes | Exception | None = self._own_epoch
        if sent.asks_epoch:
            epoch = self._epoch(sent.replies[-1])
            if isinstance(epoch, WireDownError):
                self.distrust()  # whoever asks next has to find out who is in charge now
        known = epoch if isinstance(epoch, bytes) else None
        for looks, replies in sent.of_looks():
            refused = epoch if isinstance(epoch, Exception) else looks.take(replies, known or b"")
            looks.answer(refused)
        if not batch.asked:
            return
        shared: dict[tuple[int, ...], Replies] = {}
        for asked, which in zip(batch.asked, sent.places, strict=True):
            if asked.reply.done():
                continue
            if asked.wants_epoch and isinstance(epoch, Exception):
                asked.reply.set_exception(epoch)
                continue
            answer = shared.get(which)
            if answer is None:
                answer = shared[which] = Replies([sent.replies[at] for at in which], known)
            asked.reply.set_result(answer)

    def _epoch(self, reply: Any) -> bytes | Exception:
        if reply == self._known_info:
            return self._known_epoch
        if not isinstance(reply, bytes) or not field_of(reply, b"master_replid"):
            text = (
                f"Redis at {self._where} does not say in INFO replication which data it holds ({_told(reply)}): nothing "
                "can be cached safely. Allow INFO to this user, or give epoch= and change it whenever data may have been lost"
            )
            return BackendError(text)
        role = field_of(reply, b"role")
        if role != b"master":
            return WireDownError(
                f"Redis at {self._where} is no primary (role {role.decode('ascii', 'replace')})", was_up=True
            )
        self._known_epoch = _epoch_of(reply)
        self._known_info = reply
        return self._known_epoch

    # -- connecting

    async def _open_and_send(self) -> None:
        why = ""
        try:
            self._stream = await self._open()
            self._stream.listen(self)
        except TimeoutError:
            why = f"no answer within {self._op_timeout} s"
        except (RedisError, OSError, BackendError) as error:
            why = _told(error)
        except asyncio.CancelledError:
            self._let_go()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits has to hear of it
            why = f"{type(error).__name__} while it was connected to"
        finally:
            self._opening = None
        if not self._next:
            return
        if why or self._stream is None:
            self._fail(self._take(), why, was_up=False)
        else:
            self._send(self._stream, was_up=False)

    async def _open(self) -> Stream:
        try:
            connection = await self._connect()
        except TimeoutError:
            raise WireDownError(f"Redis at {self._where}: no connection in time") from None
        try:
            async with asyncio.timeout(max(self._op_timeout, _GREETING)):
                await self._check_version(connection)
            return stream_of(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

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

    # -- failing and closing

    def lost(self, error: Exception) -> None:
        """The connection is gone. Where nobody waits for anything, nobody is told: another is made when it is needed."""
        self._stream = None
        batch = self._under_way
        if batch is not None:
            self._fail(batch, _told(error), was_up=batch.was_up, cut_short=True)

    def _fail(self, batch: _Batch | None, why: str, *, was_up: bool, cut_short: bool = False) -> None:
        """Give up the connection, and what it was asked; others have their own turn."""
        self._drop()
        self._under_way = self._sent = None
        text = why if why.startswith("Redis at ") else f"Redis at {self._where}: {why}"
        for reply in batch.waiting() if batch is not None else ():
            reply.set_exception(WireDownError(text, was_up=was_up, cut_short=cut_short))
        self._is_due = True
        self._loop.call_soon(self._start)

    def _let_go(self) -> None:
        """Nobody waits for ever: the connection is being closed."""
        batches = [*self._next] if self._under_way is None else [self._under_way, *self._next]
        self._next.clear()
        self._room = 0
        self._under_way = self._sent = None
        for batch in batches:
            for reply in batch.waiting():
                text = f"Redis at {self._where}: the connection was closed"
                reply.set_exception(WireDownError(text, is_outage=False))

    def _drop(self) -> None:
        self._is_suspect = False
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()

    def distrust(self) -> None:
        """Make a new connection for what is asked next: the server may not be the one in charge any more."""
        self._is_suspect = True

    async def close(self) -> None:
        """Close the connection. A later request opens it again."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        opening = self._opening
        if opening is not None:
            opening.cancel()
            await asyncio.wait({opening})
            self._opening = None  # one that was cancelled before its first step has not said so itself
        stream, self._stream = self._stream, None
        self._let_go()
        if stream is not None:
            await stream.close()


class _Sent:
    """A batch as commands, and what has come back of them: what was asked, then the looks, then the epoch."""

    __slots__ = ("_again", "_commands", "_expected", "_looks", "asks_epoch", "places", "replies")

    def __init__(self, batch: _Batch, *, asks_epoch: bool) -> None:
        self._commands: list[Command] = []
        self._looks = [looks for some in batch.looks.values() for looks in some]
        self._again: list[int] | None = None
        self.places: list[tuple[int, ...]] = []
        """Where each request's replies are."""
        self.replies: list[Any] = []
        self.asks_epoch = asks_epoch and (bool(self._looks) or any(asked.wants_epoch for asked in batch.asked))
        if batch.asked:
            self._gather(batch.asked)
        looked = sum([looks.replies for looks in self._looks])
        self._expected = len(self._commands) + looked + self.asks_epoch

    def _gather(self, batch: list[_Asked]) -> None:
        sent = self._commands
        looks: dict[Command, int] = {}
        for asked in batch:
            mine: list[int] = []
            for command in asked.commands:
                at = looks.setdefault(command, len(sent)) if command[0] in _LOOKS else len(sent)
                if at == len(sent):
                    sent.append(command)
                mine.append(at)
            self.places.append(tuple(mine))

    @property
    def missing(self) -> int:
        """How many replies are still to come."""
        return self._expected - len(self.replies) if self._again is None else len(self._again)

    def packed(self) -> bytes:
        pieces = [packed(command) for command in self._commands]
        pieces += [looks.packed() for looks in self._looks]
        if self.asks_epoch:
            pieces.append(_INFO)
        return b"".join(pieces)

    def take(self, replies: list[Any]) -> None:
        """Some of the replies.

        Raises:
            RedisError: there are too many of them, or one says that the connection is no good.
        """
        if len(replies) > self.missing:
            raise InvalidResponse("a reply to nothing")
        for reply in replies:
            if isinstance(reply, RedisConnectionError):
                raise reply
        if self._again is None:
            self.replies += replies
            return
        for reply in replies:
            self.replies[self._again.pop(0)] = reply

    def again(self) -> bytes | None:
        """The scripts Redis did not know (a restart, SCRIPT FLUSH) once more, in full; then the epoch, if it is wanted."""
        if self._again is not None or not self._commands:
            return None
        commands, replies = self._commands, self.replies
        unknown = [at for at in range(len(commands)) if type(replies[at]) is not list and _is_no_script(replies[at])]
        if not unknown:
            return None
        pieces = [packed(("EVAL", commands[at][0].text, *commands[at][1:])) for at in unknown]
        if self.asks_epoch:
            pieces.append(_INFO)
        self._again = [*unknown, -1] if self.asks_epoch else unknown
        return b"".join(pieces)

    def of_looks(self) -> Iterator[tuple[Looks, list[Any]]]:
        """The looks, each with its replies."""
        at = len(self._commands)
        for looks in self._looks:
            end = at + looks.replies  # now: who has answered has forgotten what it had asked for
            yield looks, self.replies[at:end]
            at = end


def _is_no_script(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and ("NOSCRIPT" in str(reply) or type(reply).__name__ == "NoScriptError")


def field_of(info: bytes, name: bytes) -> bytes:
    """One line of an INFO; empty if it is not there."""
    at = info.find(b"\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 2
    return info[start : info.find(b"\r", start)]


def _epoch_of(reply: bytes) -> bytes:
    return epoch_bytes(field_of(reply, b"master_replid"))


def _told(error: object) -> str:
    """An error for people. redis-py puts no password into its texts, and neither do we."""
    if isinstance(error, BackendError):
        return str(error)
    if isinstance(error, RedisConnectionError | OSError | RedisError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
