"""One connection and those who share it: what travels together, what comes back to whom, and what a failure costs."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio
from redis import _parsers as redis_parsers
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ReadOnlyError, ResponseError

from agent_cache import AgentCache, AgentCacheInvalidator, BackendError, get_metrics
from agent_cache.backends.redis import RedisBackend, opened, resp
from agent_cache.backends.redis.looks import Look, Looks
from agent_cache.backends.redis.plans import Group, Plans
from agent_cache.backends.redis.records import Names
from agent_cache.backends.redis.stream import _Lent, _Taken, stream_of
from agent_cache.backends.redis.wire import Wire, WireDownError
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
from agent_cache.testing.servers import RedisServer

BackendAt = Callable[..., RedisBackend]
INFO = b"# Replication\r\nrole:master\r\nmaster_replid:" + b"ab" * 20 + b"\r\n"
PLANS = Plans(Names("ac:"), sharded=False)
CODEC = codec_for(Any)


def group_of(*resources: str) -> Group:
    group = PLANS.of(read_tags([tuple(resource.split(":")) for resource in resources], ())).only
    assert group is not None
    return group


CART, STOCK = group_of("cart:1"), group_of("stock:1")


class Told:
    """A connection of a class of its own: what is sent stays in ``sent`` until the test lets it be answered."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.came, self.replies = asyncio.Event(), asyncio.Queue[Any]()
        self.closed = False
        self.replies.put_nowait(b"# Server\r\nredis_version:7.2.0\r\n")

    @staticmethod
    def pack_command(*parts: str) -> bytes:
        return resp.packed(parts)

    async def send_packed_command(self, data: bytes, check_health: bool = True) -> None:
        reader = resp.Reader(ResponseError)
        reader.feed(data)
        while (command := reader.gets()) is not resp.MORE:
            self.sent.append(command)
        self.came.set()

    async def read_response(self, disable_decoding: bool = False) -> Any:
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:
        self.closed = True

    async def batch(self) -> list[list[bytes]]:
        """What was sent in one go."""
        async with asyncio.timeout(10):
            await self.came.wait()
        self.came.clear()
        sent, self.sent = self.sent, []
        return sent

    def answer(self, *replies: Any) -> None:
        for reply in replies:
            self.replies.put_nowait(reply)


class Line:
    """A wire whose connections are the test's."""

    def __init__(self) -> None:
        self.made: list[Told] = []
        self.broken: Exception | None = None
        self.wire = Wire(self._connect, "here", 30.0, None, lambda: None)

    async def _connect(self) -> Told:
        if self.broken is not None:
            raise self.broken
        self.made.append(Told())
        return self.made[-1]

    def look(
        self, group: Group = CART, entry: bytes | None = None, *, wants_left: bool = False
    ) -> asyncio.Future[Look]:
        return self.wire.look(group, entry, wants_left=wants_left)

    async def connected(self) -> Told:
        """The connection stands; what it began with is forgotten."""
        first = self.look()
        await until(lambda: self.made and len(self.made[-1].sent) > 1)
        told = self.made[-1]
        await told.batch()
        told.answer([None] * len(CART.keys), INFO)
        await first
        await until(lambda: not self.wire._is_due)
        return told


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    yield made
    await made.wire.close()
    assert all(told.closed for told in made.made)


def record(version: bytes) -> bytes:
    return b"T1" + version + b"f" * 12 + b"0000"


# -- reads of one tick ------------------------------------------------------------------------------------------------


async def test_reads_of_one_tick_are_one_command_that_names_every_key_once(line: Line) -> None:
    told = await line.connected()
    asked = [line.look(CART, b"entry 1"), line.look(CART, b"entry 2"), line.look(STOCK, b"entry 3"), line.look(CART)]
    asked += [line.look(CART, b"entry 1")]
    mget, info = await told.batch()
    assert info == [b"INFO", b"replication"]
    tags = list(dict.fromkeys([*CART.keys, *STOCK.keys]))
    assert mget == [b"MGET", *tags, b"entry 1", b"entry 2", b"entry 3"]
    versions = {key: b"%012d" % number for number, key in enumerate(tags)}
    told.answer([*(record(versions[key]) for key in tags), b"one", None, b"three"], INFO)
    one, two, three, none, again = await asyncio.gather(*asked)
    assert [look.raw for look in (one, two, three, none)] == [b"one", None, b"three", None]
    assert again is one
    assert one.epoch == bytes.fromhex("ab" * 20)
    for look, group in ((one, CART), (two, CART), (three, STOCK), (none, CART)):
        assert look.tags == [record(versions[key]) for key in group.keys]
        assert look.stamp() == one.epoch + b"".join(versions[key] for key in group.keys)


async def test_a_tag_that_is_missing_or_not_ours_makes_the_stamps_of_its_readers_unknown_and_no_others(
    line: Line,
) -> None:
    told = await line.connected()
    asked = [line.look(CART), line.look(STOCK)]
    mget, _ = await told.batch()
    mine = set(CART.keys) - set(STOCK.keys)
    for odd in (None, b"", b"X" * 40, 5):
        told.answer([odd if key in mine else record(b"v" * 12) for key in mget[1:]], INFO)
        cart, stock = await asyncio.gather(*asked)
        assert cart.stamp() is None
        assert stock.stamp() == stock.epoch + b"v" * 12 * len(STOCK.keys)
        asked = [line.look(CART), line.look(STOCK)]
        await told.batch()
    told.answer([None] * (len(mget) - 1), INFO)
    await asyncio.gather(*asked)


async def test_what_remains_of_an_entry_is_asked_for_where_it_is_wanted(line: Line) -> None:
    told = await line.connected()
    asked = [line.look(CART, b"a"), line.look(CART, b"b", wants_left=True), line.look(CART, b"a", wants_left=True)]
    mget, *rest = await told.batch()
    assert mget[-3:] == [b"a", b"b", b"a"]
    assert rest == [[b"PTTL", b"b"], [b"PTTL", b"a"], [b"INFO", b"replication"]]
    told.answer([None] * (len(mget) - 1), 20, 30, INFO)
    assert [look.left for look in await asyncio.gather(*asked)] == [None, 20, 30]


async def test_one_command_names_only_so_many_keys(line: Line) -> None:
    told = await line.connected()
    asked = [line.look(CART, b"entry %d" % number) for number in range(5000)]
    found = 0
    while found < 5000:
        batch = await told.batch()
        assert batch[-1] == [b"INFO", b"replication"]
        for command in batch[:-1]:
            assert len(command) < 2_100
            entries = [key for key in command[1:] if key.startswith(b"entry")]
            told.answer([None if key.startswith(b"ac:") else key for key in command[1:]])
            found += len(entries)
        told.answer(INFO)
    looks = await asyncio.gather(*asked)
    assert [look.raw for look in looks] == [b"entry %d" % number for number in range(5000)]


async def test_reads_of_several_slots_are_a_command_for_each(line: Line) -> None:
    told = await line.connected()
    plans = Plans(Names("ac:"), sharded=True)
    groups = plans.of(read_tags([("cart", "1")], ())).groups
    assert len({group.slot for group in groups}) == 2
    asked = [line.look(group) for group in groups]
    *commands, _ = await told.batch()
    assert commands == [[b"MGET", *group.keys] for group in groups]
    told.answer(*([None] * len(group.keys) for group in groups), INFO)
    await asyncio.gather(*asked)


async def test_who_comes_while_a_batch_is_under_way_is_not_answered_by_it(line: Line) -> None:
    told = await line.connected()
    early = line.look(CART, b"entry")
    await told.batch()
    late = line.look(CART, b"entry")
    told.answer([*[None] * len(CART.keys), b"before"], INFO)
    assert (await early).raw == b"before"
    assert not late.done()
    mget, _ = await told.batch()
    told.answer([*[None] * len(CART.keys), b"after"], INFO)
    assert (await late).raw == b"after"
    assert mget[-1] == b"entry"


async def test_who_leaves_takes_no_answer_from_others(line: Line) -> None:
    told = await line.connected()
    asked = [line.look(CART, b"entry %d" % number) for number in range(4)]
    asked[0].cancel()
    await told.batch()
    asked[2].cancel()
    told.answer([*[None] * len(CART.keys), *(b"%d" % number for number in range(4))], INFO)
    assert [(await asked[number]).raw for number in (1, 3)] == [b"1", b"3"]
    later = line.look(CART, b"entry 9")
    await told.batch()
    told.answer([*[None] * len(CART.keys), b"9"], INFO)
    assert (await later).raw == b"9"
    assert len(line.made) == 1


async def test_what_was_read_is_freed_with_its_last_reader(line: Line) -> None:
    told = await line.connected()
    gc.collect()
    gc.disable()  # nothing must be left for it to find
    try:
        asked = [line.look(CART, b"entry %d" % number) for number in range(3)]
        await told.batch()
        told.answer([None] * (len(CART.keys) + 3), INFO)
        looks = await asyncio.gather(*asked)
        del looks, asked
        await asyncio.sleep(0)
        left = [each for each in gc.get_objects() if isinstance(each, Look | Looks)]
    finally:
        gc.enable()
    assert left == []


# -- refusals and failures --------------------------------------------------------------------------------------------


async def test_a_refused_read_refuses_those_beside_it_and_not_the_connection(line: Line) -> None:
    told = await line.connected()
    asked = [line.look(CART), line.look(STOCK)]
    await told.batch()
    told.answer(ResponseError("NOPERM"), INFO)
    for each in asked:
        with pytest.raises(ResponseError, match="NOPERM"):
            await each
    assert not told.closed


@pytest.mark.parametrize("reply", [b"OK", [], [None] * 50, 5, None])
async def test_an_answer_that_makes_no_sense_costs_the_connection(line: Line, reply: Any) -> None:
    told = await line.connected()
    beside, asked = asyncio.ensure_future(line.wire.ask([("PING",)])), line.look(CART)
    await told.batch()
    waits = line.look(STOCK)
    told.answer(b"PONG", reply, INFO)
    with pytest.raises(WireDownError) as caught:
        await asked
    assert caught.value.was_up
    await asyncio.wait({beside})
    await until(lambda: len(line.made) == 2 and len(line.made[1].sent) > 1)
    assert told.closed
    line.made[1].answer([None] * len(STOCK.keys), INFO)
    await waits  # who was not yet under way is asked on the next connection


async def test_a_reply_to_nothing_costs_the_connection_and_nobody_an_answer(line: Line) -> None:
    told = await line.connected()
    line.wire.heard([b"more"])
    asked = line.look(CART)
    await until(lambda: len(line.made) == 2 and len(line.made[1].sent) > 1)
    assert told.closed
    line.made[1].answer([None] * len(CART.keys), INFO)
    assert (await asked).raw is None


async def test_more_replies_than_were_asked_for_are_nobodys(line: Line) -> None:
    told = await line.connected()
    asked = line.look(CART)
    await told.batch()
    line.wire.heard([[None] * len(CART.keys), INFO, b"more"])
    with pytest.raises(WireDownError, match="a reply to nothing"):
        await asked
    await until(lambda: told.closed)


async def test_who_waits_for_a_connection_that_cannot_be_made_is_told_why(line: Line) -> None:
    line.broken = RedisConnectionError("refused")
    asked = [line.look(CART), line.look(STOCK, b"entry")]
    for each in asked:
        with pytest.raises(WireDownError, match="here: ConnectionError: refused") as caught:
            await each
        assert not caught.value.was_up
    line.broken = None
    await line.connected()


async def test_closing_tells_everybody_and_is_no_outage(line: Line) -> None:
    told = await line.connected()
    under_way = line.look(CART)
    await told.batch()
    waits = line.look(STOCK)
    await line.wire.close()
    for each in (under_way, waits):
        with pytest.raises(WireDownError) as caught:
            await each
        assert not caught.value.is_outage
    assert told.closed
    await line.connected()  # and it is opened again


async def test_closing_while_it_is_being_connected_tells_everybody(line: Line) -> None:
    never = asyncio.Event()

    async def connect() -> Any:
        await never.wait()

    wire = Wire(connect, "here", 30.0, None, lambda: None)
    asked = wire.look(CART, None, wants_left=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await wire.close()
    with pytest.raises(WireDownError):
        await asked


async def test_a_script_that_is_not_known_is_sent_in_full_and_the_epoch_asked_after_it(line: Line) -> None:
    from agent_cache.backends.redis import scripts

    told = await line.connected()
    both = [
        asyncio.ensure_future(line.wire.ask([(scripts.TOKEN, 1, "key")], wants_epoch=True)),
        asyncio.ensure_future(line.wire.ask([(scripts.RELEASE, 1, "lead", "who")])),
    ]
    assert [command[0] for command in await told.batch()] == [b"EVALSHA", b"EVALSHA", b"INFO"]
    told.answer(ResponseError("NOSCRIPT No matching script"), 7, INFO)
    again = await told.batch()
    assert [command[:2] for command in again] == [[b"EVAL", scripts.TOKEN.text.encode()], [b"INFO", b"replication"]]
    told.answer(b"token", INFO.replace(b"ab" * 20, b"cd" * 20))
    first, second = await asyncio.gather(*both)
    assert (first.values, second.values) == ([b"token"], [7])
    assert first.epoch == bytes.fromhex("cd" * 20)


# -- taken over from redis-py, or not ---------------------------------------------------------------------------------


class Works:
    """A read and a write that count."""

    def __init__(self, backend: RedisBackend) -> None:
        self.runs = self.state = 0

        @AgentCache("cart", backend=backend)
        async def get() -> int:
            self.runs += 1
            return self.state

        @AgentCacheInvalidator("cart", backend=backend)
        async def put() -> None:
            self.state += 1

        self.get, self.put = get, put

    async def as_it_should(self) -> None:
        await self.put()
        runs = self.runs
        assert await self.get() == await self.get() == self.state
        assert self.runs == runs + 1
        assert get_metrics()["backend_errors"] == 0


class Watched(redis.asyncio.Connection):
    """A class that a user hands in, with something of its own to do for whatever is read."""

    read = 0

    async def read_response(self, *args: Any, **how: Any) -> Any:
        type(self).read += 1
        return await super().read_response(*args, **how)


async def test_a_connection_class_with_ways_of_its_own_is_used_as_it_is(
    server: RedisServer, backend_at: BackendAt
) -> None:
    pool = redis.asyncio.ConnectionPool(connection_class=Watched, host="127.0.0.1", port=server.port)
    client = redis.asyncio.Redis(connection_pool=pool)
    backend = backend_at(client=client)
    tools = Works(backend)
    await tools.as_it_should()
    before = Watched.read
    await tools.get()
    assert Watched.read == before + 2  # the entry with its tags, and the epoch
    server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await tools.as_it_should()
    server.cli("SCRIPT", "FLUSH")
    await tools.as_it_should()
    await backend.close()
    await client.aclose()


async def test_a_connection_of_redis_py_is_taken_over_and_closed_by_whoever_took_it(
    server: RedisServer, backend_at: BackendAt
) -> None:
    connection = await backend_at()._links.blueprint.connection(None, 5.0)
    stream = stream_of(connection)
    assert isinstance(stream, _Taken)
    assert not connection.is_connected
    await stream.close()
    assert isinstance(stream_of(Told()), _Lent)


async def test_a_connection_that_is_lost_as_it_is_taken_over_is_not_used(backend_at: BackendAt) -> None:
    connection = redis.asyncio.Connection()
    here, there = socket.socketpair()
    connection._reader, connection._writer = await asyncio.open_connection(sock=here)
    there.close()
    await until(connection._reader.at_eof)
    with pytest.raises(RedisConnectionError):
        stream_of(connection)
    await connection.disconnect()


@pytest.mark.parametrize("hiredis", [True, False], ids=["hiredis", "python"])
@pytest.mark.parametrize("query", ["?protocol=2", "?protocol=3"])
async def test_replies_are_read_with_and_without_hiredis(
    hiredis: bool, query: str, server: RedisServer, backend_at: BackendAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hiredis:
        monkeypatch.setattr(resp, "hiredis", None)
    backend = backend_at(server.url + query)
    await Works(backend).as_it_should()
    value = {"big": "x" * 300_000, "none": None}
    await backend.set("key", value, ttl=60)
    assert await backend.get("key") == value
    found = backend.keys()
    assert [key async for key in found] == ["key"]
    await backend.clear()
    assert await backend.count() == 0
    server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await backend.get("key", "gone") == "gone"


@pytest.mark.parametrize("said", [b"", b"# Replication\r\n", b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"])
async def test_a_server_that_does_not_say_which_data_it_holds_is_not_believed(line: Line, said: bytes) -> None:
    told = await line.connected()
    for _ in range(2):
        look = line.look()
        await told.batch()
        told.answer([None] * len(CART.keys), said)
        with pytest.raises(BackendError, match="does not say in INFO replication which data"):
            await look


@pytest.mark.parametrize("with_hiredis", [True, False])
@pytest.mark.parametrize("begun", [b">2\r\n$3\r\nfoo\r\n", b""], ids=["before", "after"])
async def test_what_is_said_unasked_before_or_after_the_connection_was_taken_over_is_no_reply(
    backend_at: BackendAt, monkeypatch: pytest.MonkeyPatch, with_hiredis: bool, begun: bytes
) -> None:
    """Before: one half of it has been read by redis-py, the other half comes later, and looks like a reply."""
    parser: Any = redis_parsers._AsyncHiredisParser if with_hiredis else redis_parsers._AsyncRESP3Parser
    if not with_hiredis:
        monkeypatch.setattr(resp, "hiredis", None)
    rest = [(b"" if begun else b">2\r\n$3\r\nfoo\r\n") + b"$3\r\nbar\r\n"]

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"HELLO":
            return b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
        if command == [b"INFO", b"server"]:
            return resp.bulk(b"# Server\r\nredis_version:7.2.0\r\n") + begun
        if command[0] == b"INFO":
            return resp.bulk(INFO)
        if command[0] == b"MGET":
            return (rest.pop() if rest else b"") + b"*%d\r\n" % (len(command) - 1) + b"_\r\n" * (len(command) - 1)
        return b"+OK\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = resp.Reader(ResponseError)
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not resp.MORE:
                writer.write(answer(command))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = redis.asyncio.ConnectionPool(host="127.0.0.1", port=port, protocol=3, parser_class=parser)
    backend = backend_at(client=redis.asyncio.Redis(connection_pool=pool))
    look = await backend._links.look(CART, None)
    assert look.tags == [None] * len(CART.keys)
    assert not rest
    await backend.close()
    server.close()


def test_entries_that_grow_are_counted_as_what_they_are() -> None:
    recent = opened.Recent()
    plan = PLANS.of(read_tags([("cart", "1")], ()))
    for size in (100, 60_000):
        for number in range(200):
            recent.put(b"%d" % number, opened.Opened(b"x" * size, plan, CODEC, b"stamp"))
    held = sum(len(each.raw) for each in recent._held.values() if isinstance(each.raw, bytes))
    assert held <= opened._MOST_BYTES + opened._LARGEST


async def test_who_asks_for_one_entry_under_other_tags_has_a_look_of_his_own() -> None:
    looks, loop = Looks(), asyncio.get_running_loop()
    for group, wants_left in ((CART, False), (STOCK, False), (STOCK, False), (STOCK, True)):
        looks.add(group, b"entry", loop.create_future(), wants_left=wants_left)
    cart, stock, same, left = [look for _, look in looks.waiting]
    assert (cart.group, stock.group) == (CART, STOCK)
    assert same is stock
    assert left is not stock
    assert left.wants_left
    for reply, _ in looks.waiting:
        reply.cancel()


def test_what_was_opened_is_for_the_same_bytes_tags_codec_and_stamp_only() -> None:
    recent, plan = opened.Recent(), PLANS.of(read_tags([("cart", "1")], ()))
    mine = opened.Opened(b"raw", plan, CODEC, b"stamp")
    recent.put(b"key", mine)
    assert recent.get(b"key", b"raw", plan, CODEC, b"stamp") is mine
    assert recent.get(b"other", b"raw", plan, CODEC, b"stamp") is None
    assert recent.get(b"key", b"other", plan, CODEC, b"stamp") is None
    assert recent.get(b"key", b"raw", PLANS.of(read_tags([("stock", "1")], ())), CODEC, b"stamp") is None
    assert recent.get(b"key", b"raw", plan, codec_for(list[int]), b"stamp") is None
    assert recent.get(b"key", b"raw", plan, CODEC, b"other") is None
    assert recent.get(b"key", b"raw", plan, CODEC, None) is None


async def test_a_server_that_refuses_as_a_replica_is_left_and_a_slot_that_has_moved_is_asked_for_elsewhere(
    backend_at: BackendAt, line: Line
) -> None:
    links = backend_at()._links
    links._stale_slots = False
    with pytest.raises(WireDownError):
        links._judge(ReadOnlyError("You can't write against a read only replica."), line.wire)
    assert line.wire._is_suspect
    assert links._stale_slots
    links._stale_slots, links.sharded = False, True
    links._judge(MovedError("1 127.0.0.1:7000"), line.wire)
    assert links._stale_slots
    links.sharded = False
