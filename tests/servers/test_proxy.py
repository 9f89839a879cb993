"""The fault proxy: each fault does what it says, to whom it says, and is gone after heal()."""

from __future__ import annotations

import asyncio
import gc
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent_cache.testing.proxy import Connection, FaultProxy
from agent_cache.testing.servers import RedisServer, Wire, wait_until


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.cli("FLUSHALL")
    return shared


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(*server.address) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], Wire]]:
    """A connection through the proxy, closed after the test."""
    made: list[Wire] = []

    def one() -> Wire:
        made.append(Wire(proxy.port))
        return made[-1]

    yield one
    for wire in made:
        wire.close()


def silent(wire: Wire) -> bool:
    """Nothing has come, not even the end of the connection."""
    return not select.select([wire._socket], [], [], 0)[0]


def closed(wire: Wire) -> bool:
    """The other side has closed the connection, and said nothing before."""
    try:
        wire._socket.settimeout(5)
        return wire._socket.recv(100) == b""
    except ConnectionError:
        return True


def subscriber(connection: Connection) -> bool:
    return b"SUBSCRIBE" in connection.first_bytes


# ---------------------------------------------------------------------------------------------------- without faults


def test_bytes_pass_and_are_counted(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    assert proxy.url == f"redis://127.0.0.1:{proxy.port}/0"
    assert (proxy.connections, proxy.bytes_to_server, proxy.bytes_to_client, proxy.round_trips) == (0, 0, 0, 0)
    wire = connect()
    assert wire.call("PING") == b"PONG"
    assert (proxy.connections, proxy.open_connections) == (1, 1)
    assert (proxy.bytes_to_server, proxy.bytes_to_client) == (len(b"*1\r\n$4\r\nPING\r\n"), len(b"+PONG\r\n"))
    assert (proxy.held_to_client, proxy.held_to_server) == (0, 0)
    assert proxy.round_trips == 1
    wire.close()
    wait_until(lambda: proxy.open_connections == 0, "the proxy to see that the client left")
    assert proxy.connections == 1


def test_a_pipeline_is_one_round_trip_and_a_push_is_none(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire, listener = connect(), connect()
    listener.call("SUBSCRIBE", "news")
    before = proxy.round_trips
    wire._socket.sendall(b"*1\r\n$4\r\nPING\r\n" * 10)
    assert [wire.read() for _ in range(10)] == [b"PONG"] * 10
    assert proxy.round_trips == before + 1
    server.cli("PUBLISH", "news", "x")
    assert listener.read() == [b"message", b"news", b"x"]
    assert proxy.round_trips == before + 1


def test_large_values_arrive_whole(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire, value = connect(), random.Random(1).randbytes(8_000_000)
    assert wire.call("SET", "key", value) == b"OK"
    assert server.cli("GET", "key") == value
    assert wire.call("GET", "key") == value


def test_a_server_that_is_down_closes_the_connection(proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    with RedisServer() as own, FaultProxy(*own.address) as before_own:
        with Wire(before_own.port) as wire:
            own.kill()
            assert closed(wire)
        with Wire(before_own.port) as wire:
            assert closed(wire)
        own.restart()
        with Wire(before_own.port) as wire:
            assert wire.call("PING") == b"PONG"


# --------------------------------------------------------------------------------------------------------- stalling


def test_stalled_both_ways(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.stall()
    later = connect()  # a new connection stalls, too
    for number in range(100):
        wire.send("RPUSH", "list", number)
    later.send("PING")
    wait_until(lambda: proxy.held_to_server > 100 * len(b"*3\r\n$5\r\nRPUSH\r\n"), "the commands to be held")
    assert server.cli("EXISTS", "list") == 0
    assert silent(wire)
    assert silent(later)
    proxy.resume()
    assert [wire.read() for _ in range(100)] == list(range(1, 101))
    assert server.cli("LRANGE", "list", 0, -1) == [b"%d" % number for number in range(100)]
    assert later.read() == b"PONG"


def test_stalled_on_the_way_back(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    proxy.stall("to_client")
    wire.send("INCR", "n")
    wait_until(lambda: proxy.held_to_client > 0, "the answer to be held")
    assert server.cli("GET", "n") == b"1"
    assert silent(wire)
    proxy.resume()
    assert wire.read() == 1


def test_stalled_on_the_way_there(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("SUBSCRIBE", "news")
    proxy.stall("to_server")
    assert server.cli("PUBLISH", "news", "x") == 1
    assert wire.read() == [b"message", b"news", b"x"]
    wire.send("UNSUBSCRIBE")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    assert server.cli("PUBSUB", "CHANNELS") == [b"news"]
    proxy.resume()
    assert wire.read() == [b"unsubscribe", b"news", 0]


def test_a_stalled_command_arrives_after_its_client_gave_up(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire = connect()
    wire.call("PING")
    proxy.stall()
    wire.send("SET", "late", "1")
    wire.close()
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    assert server.cli("GET", "late") is None
    proxy.resume()
    wait_until(lambda: bool(server.cli("GET", "late") == b"1"), "the late command to arrive")
    wait_until(lambda: proxy.open_connections == 0, "the connection to end")


def test_much_is_held_without_loss(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    value = random.Random(2).randbytes(6_000_000)
    server.cli("SET", "key", value)
    wire = connect()
    proxy.stall("to_client")
    wire.send("GET", "key")
    wait_until(lambda: proxy.held_to_client > 1_000_000, "the proxy to be full")
    assert proxy.held_to_client < 2_000_000
    proxy.resume()
    assert wire.read() == value


def test_only_some_connections_stall(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    first, listener, third = connect(), connect(), connect()
    for wire in (first, listener, third):
        wire.call("PING")
    listener.call("SUBSCRIBE", "news")
    proxy.stall("to_client", only=subscriber)
    proxy.stall("to_server", only=lambda connection: connection.number == 3)
    server.cli("PUBLISH", "news", "x")
    third.send("INCR", "n")
    wait_until(lambda: proxy.held_to_client > 0, "the message to be held")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    assert first.call("PING") == b"PONG"
    assert silent(listener)
    assert server.cli("GET", "n") is None
    proxy.resume()
    assert listener.read() == [b"message", b"news", b"x"]
    assert third.read() == 1


def test_a_connection_is_recognised_by_the_very_bytes_that_are_held(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    proxy.stall("to_server", only=subscriber)
    wire = connect()
    assert wire.call("PING") == b"PONG"
    wire.send("SUBSCRIBE", "news")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    assert server.cli("PUBSUB", "CHANNELS") == []
    proxy.resume()
    assert wire.read() == [b"subscribe", b"news", 1]


# ------------------------------------------------------------------------------------------------- cutting and losing


def test_dropped_connections_are_closed_on_both_sides(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire, listener = connect(), connect()
    wire.call("PING")
    listener.call("SUBSCRIBE", "news")
    assert proxy.drop(only=subscriber) == 1
    assert closed(listener)
    wait_until(lambda: bool(server.cli("PUBSUB", "CHANNELS") == []), "the server to hear of it")
    assert wire.call("PING") == b"PONG"
    proxy.stall()
    wire.send("INCR", "n")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    assert proxy.drop() == 1
    assert closed(wire)
    proxy.resume()
    assert connect().call("PING") == b"PONG"
    assert server.cli("GET", "n") is None


def test_refusing_is_for_new_connections(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.refuse()
    assert closed(connect())
    assert wire.call("PING") == b"PONG"
    wait_until(lambda: proxy.connections == 2, "the refused one to be counted")
    proxy.heal()
    assert connect().call("PING") == b"PONG"
    assert proxy.open_connections == 2


def test_a_black_hole_swallows_all_and_heal_closes_what_lost_something(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire, listener = connect(), connect()
    wire.call("PING")
    listener.call("SUBSCRIBE", "news")
    proxy.black_hole()
    later = connect()
    for one in (wire, later):
        one.send("INCR", "n")
    assert server.cli("PUBLISH", "news", "x") == 1
    wait_until(lambda: proxy.connections == 3, "the new connection to be accepted")
    passed = (proxy.bytes_to_client, proxy.bytes_to_server)
    assert all(map(silent, (wire, listener, later)))
    assert (proxy.held_to_client, proxy.held_to_server) == (0, 0)
    proxy.heal()
    assert all(map(closed, (wire, listener, later)))
    assert (proxy.bytes_to_client, proxy.bytes_to_server) == passed
    assert connect().call("PING") == b"PONG"
    assert server.cli("GET", "n") is None


def test_clients_that_leave_a_black_hole_do_no_harm(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire = connect()
    wire.call("CLIENT", "SETNAME", "forgotten")
    proxy.black_hole()
    wire.close()
    connect().close()
    wait_until(lambda: proxy.connections == 2, "the new connection to be accepted")
    assert b"forgotten" in server.cli("CLIENT", "LIST")  # nobody told the server
    proxy.heal()
    wait_until(lambda: b"forgotten" not in server.cli("CLIENT", "LIST"), "the server to hear of it")
    assert proxy.open_connections == 0


def test_a_swallowed_reply_was_executed(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.swallow_next_reply()
    wire.send("INCR", "n")
    assert closed(wire)
    assert server.cli("GET", "n") == b"1"
    assert connect().call("INCR", "n") == 2  # once


def test_only_one_connections_reply_is_swallowed(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire, listener = connect(), connect()
    wire.call("PING")
    listener.call("SUBSCRIBE", "news")
    proxy.swallow_next_reply(only=subscriber)
    assert wire.call("INCR", "n") == 1
    server.cli("PUBLISH", "news", "x")
    assert closed(listener)


def test_a_stalled_reply_is_swallowed_when_it_goes_on(
    server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]
) -> None:
    wire = connect()
    proxy.stall("to_client")
    wire.send("INCR", "n")
    wait_until(lambda: proxy.held_to_client > 0, "the answer to be held")
    proxy.swallow_next_reply()
    assert silent(wire)
    proxy.resume()
    assert closed(wire)
    assert server.cli("GET", "n") == b"1"


def test_every_chunk_is_late(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.delay(0.1)
    began = time.monotonic()
    assert wire.call("INCR", "n") == 1
    assert 0.2 <= time.monotonic() - began < 2
    proxy.delay(3_600)
    wire.send("INCR", "n")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be late")
    proxy.heal()  # nothing waits any longer
    assert wire.read() == 2


def test_partition_and_heal(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.partition()
    assert closed(wire)
    inside = connect()
    inside.send("INCR", "n")
    wait_until(lambda: proxy.open_connections == 1, "the new connection to be accepted")
    assert silent(inside)
    proxy.heal()
    assert closed(inside)
    assert connect().call("INCR", "n") == 1


def test_heal_ends_every_fault(server: RedisServer, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    wire = connect()
    wire.call("PING")
    proxy.stall()
    proxy.refuse()
    proxy.delay(3_600)
    proxy.swallow_next_reply()
    wire.send("INCR", "n")
    wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
    proxy.heal()
    assert wire.read() == 1
    assert connect().call("INCR", "n") == 2


@pytest.mark.parametrize("wrong", [lambda proxy: proxy.stall("sideways"), lambda proxy: proxy.delay(-1)])
def test_nonsense_is_told(proxy: FaultProxy, wrong: Callable[[FaultProxy], None]) -> None:
    with pytest.raises(ValueError, match=r"direction=|delay\("):
        wrong(proxy)


# ----------------------------------------------------------------------------------------------------- life and loops


async def test_controlled_from_the_loop_whose_client_is_stalled(server: RedisServer, proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        proxy.stall("to_client")
        writer.write(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readline()
        proxy.resume()
        async with asyncio.timeout(5):
            assert await reader.readline() == b":1\r\n"
    finally:
        writer.close()
        await writer.wait_closed()


def test_controls_from_many_threads(server: RedisServer, proxy: FaultProxy) -> None:
    problems: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            with Wire(proxy.port) as wire:
                for _ in range(100):
                    wire.call("INCR", "n")
        except Exception as error:  # noqa: BLE001 - told below
            problems.append(error)

    def disturb() -> None:
        while not done.is_set():
            proxy.stall("to_client")
            proxy.delay(0.001)
            assert proxy.round_trips <= proxy.bytes_to_server
            proxy.delay(0)
            proxy.resume()

    clients = [threading.Thread(target=ask) for _ in range(4)]
    disturbers = [threading.Thread(target=disturb) for _ in range(2)]
    for thread in (*clients, *disturbers):
        thread.start()
    for thread in clients:
        thread.join(20)
    done.set()
    for thread in disturbers:
        thread.join(20)
    assert problems == []
    assert server.cli("GET", "n") == b"400"


def test_nothing_is_left_behind(server: RedisServer) -> None:
    threads = set(threading.enumerate())
    proxy = FaultProxy(*server.address)
    with proxy:
        port = proxy.port
        with Wire(port) as wire, Wire(port) as other:
            wire.call("PING")
            proxy.stall()
            other.send("PING")
            wait_until(lambda: proxy.held_to_server > 0, "the command to be held")
            proxy.close()
            assert closed(wire)
            assert closed(other)
    assert set(threading.enumerate()) == threads
    assert proxy.connections == 2  # still told
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    proxy.close()  # again: nothing to do
    with proxy, Wire(proxy.port) as wire:  # and it can be started again, healed
        proxy.heal()
        assert wire.call("PING") == b"PONG"
    gc.collect()  # a socket left open would warn now


def test_a_predicate_that_raises_is_told(server: RedisServer) -> None:
    def wrong(connection: Connection) -> bool:
        raise LookupError("my mistake")

    with FaultProxy(*server.address) as proxy:
        with Wire(proxy.port) as wire:
            wire.call("PING")
            with pytest.raises(LookupError, match="my mistake"):
                proxy.drop(only=wrong)
            assert wire.call("PING") == b"PONG"
            proxy.stall(only=wrong)
            wire.send("PING")
            assert closed(wire)
        with pytest.raises(RuntimeError, match="my mistake"):
            proxy.close()
