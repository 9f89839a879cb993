"""The rules of the protocol on a real Redis, one by one: two backends with one prefix are two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from agent_cache import AgentCache, AgentCacheInvalidator, BackendError, NoEffect, configure
from agent_cache.backends.base import Blocked, Found, Missing, NewEntry
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.redis import scripts as lua
from agent_cache.backends.redis.backend import Token
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.records import read_tag
from agent_cache.backends.redis.wire import Replies, WireDownError
from agent_cache.codecs import codec_for
from agent_cache.tags import Chain, read_tags, write_tags
from agent_cache.testing.servers import ClusterSetup, RedisServer, SentinelSetup

Process = Any
Eventually = Callable[..., Awaitable[None]]
CART = read_tags([("cart", "42")], ())
WRITE_CART = write_tags([("cart", "42")], ())


def tag_keys(process: Process, tags: Any = CART) -> list[bytes]:
    return [process._backend._names.tag(tag)[1] for tag in tags]


def lose(server: RedisServer, process: Process, tags: Any = CART) -> None:
    """The tag records are gone, as after an eviction."""
    server.cli("DEL", *tag_keys(process, tags))


def versions(server: RedisServer, process: Process, tags: Any = CART) -> list[bytes]:
    records = [read_tag(server.cli("GET", key)) for key in tag_keys(process, tags)]
    return [record.version for record in records if record is not None]


async def _nothing() -> None:
    """Nothing happens."""


class Cut:
    """Between a backend and Redis: what is sent there is refused before it is carried out, or answered to nobody."""

    def __init__(self, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[bytes, Any], bool] = lambda slot, script: False
        self.after: Callable[[bytes, Any], bool] = lambda slot, script: False
        self.refused: list[Any] = []
        self.meanwhile: Callable[[], Awaitable[None]] = _nothing
        """What happens between an answer that was lost and the next attempt."""
        links, ask = backend._links, Links._ask

        async def cut(slot: bytes, commands: Any, wants_epoch: bool) -> Replies:
            scripts = [command[0] for command in commands]
            if any(self.before(slot, script) for script in scripts):
                self.refused += scripts
                raise WireDownError("cut off")
            replies = await ask(links, slot, commands, wants_epoch)
            if any(self.after(slot, script) for script in scripts):
                self.refused += scripts
                await self.meanwhile()
                raise WireDownError("the answer was lost", was_up=True)
            return replies

        monkeypatch.setattr(links, "_ask", cut)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Process], Cut]:
    return lambda process: Cut(process._backend, monkeypatch)


# ------------------------------------------------------------------------------------------------- no stale fill

ENDINGS = pytest.mark.parametrize(
    "ending",
    [
        pytest.param({}, id="effect"),
        pytest.param({"no_effect": True}, id="no effect"),
        pytest.param({"unknown": True}, id="unknown"),
    ],
)


@ENDINGS
async def test_what_was_loaded_before_a_write_is_refused_during_and_after_it(process: Process, ending: Any) -> None:
    reader, writer = process(), process()
    token = await reader.token()
    window = await writer.begin()
    assert not await reader.fill(token, "old")
    await writer.end(window, **ending)
    assert not await reader.fill(token, "old")
    await process.let_pass(60)
    assert not await reader.fill(token, "old")
    await reader.expect_missing("absent")


async def test_a_write_drops_what_was_stored_before_it_at_its_begin_and_what_came_between(process: Process) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    window = await writer.begin()
    await reader.expect_blocked()
    await writer.end(window)
    assert (await reader.expect_missing("stale")).dropped_by == "add_to_cart"
    await reader.store("new")
    await reader.expect_value("new")


async def test_an_invalidation_by_hand_refuses_loads_under_way(process: Process) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    token = await reader.token()
    await writer.move()
    assert not await reader.fill(token, "old")
    await reader.expect_missing("stale")


# ------------------------------------------------------------------------------------------------------ the marker


async def test_a_marker_blocks_until_its_lease_ends_and_then_reads_load_again(process: Process) -> None:
    reader, writer = process(), process(write_lease=30)
    window = await writer.begin()
    await process.let_pass(29)
    await reader.expect_blocked()
    assert not await reader.fill(await guessed_token(reader), "in the window")
    await process.let_pass(2)
    await reader.store("loaded after the writer was given up")
    await reader.expect_value("loaded after the writer was given up")
    await writer.end(window)  # it was only slow
    await reader.expect_missing("stale")


async def guessed_token(process: Process) -> Token:
    """The versions and fences of this moment, window or not: what an honest reader is never given."""
    plan = process._backend._plan(CART)
    assert plan.only is not None
    seen = await process._backend._links.look(plan.only, None)
    records = [record for record in map(read_tag, seen.tags) if record is not None]
    return Token(plan, seen.epoch + b"".join(record.version for record in records), tuple(r.fence for r in records))


async def test_a_renewed_marker_outlives_its_first_lease(process: Process) -> None:
    reader, writer = process(), process(write_lease=30)
    window = await writer.begin()
    for _ in range(4):
        await process.let_pass(20)
        await writer._backend._renew(window)
        await reader.expect_blocked()
    assert any(kept is window for kept in writer._backend._keeper._kept.values()), "the keeper renews it"
    await writer.end(window)
    assert window not in list(writer._backend._keeper._kept.values())
    await reader.store("new")


@pytest.mark.parametrize("loss", ["its tags", "everything"])
async def test_a_write_whose_marker_was_lost_moves_its_tags_all_the_same(
    server: RedisServer, process: Process, loss: str
) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    window = await writer.begin()
    if loss == "everything":
        server.cli("FLUSHALL")
    else:
        lose(server, reader)
    token = await reader.token()
    await reader.store("read before the commit")
    await writer.end(window)
    await reader.expect_missing("stale")
    assert not await reader.fill(token, "read before the commit")


async def test_a_write_whose_marker_was_lost_restores_nothing(server: RedisServer, process: Process) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    window = await writer.begin()
    lose(server, reader)
    await reader.store("read in the window")
    await writer.end(window, no_effect=True)
    await reader.expect_missing("stale")


async def test_a_renewal_that_finds_its_marker_lost_moves_the_tags_and_marks_them_again(
    server: RedisServer, process: Process
) -> None:
    reader, writer = process(), process()
    window = await writer.begin()
    lose(server, reader)
    token = await reader.token()
    await reader.store("read before the commit")
    since = window.since
    await writer._backend._renew(window)
    assert window.since > since, "near tiers count from here"
    await reader.expect_blocked()
    assert not await reader.fill(token, "read before the commit")
    await writer.end(window, no_effect=True)
    await reader.expect_missing("stale")


# --------------------------------------------------------------------------------------------- lost tag records


@pytest.mark.parametrize("lost", range(len(CART)))
async def test_an_entry_whose_tag_was_lost_is_not_seen_again(server: RedisServer, process: Process, lost: int) -> None:
    reader, other = process(), process()
    await reader.store("old")
    before = set(versions(server, reader))
    lose(server, reader, [CART[lost]])
    await other.expect_missing("stale")
    assert isinstance(await reader.lookup(), Missing)
    assert len(set(versions(server, reader)) - before) == 1, "that one was minted anew"
    await reader.store("new")
    await other.expect_value("new")


async def test_a_lost_tag_is_never_minted_the_same(server: RedisServer, process: Process) -> None:
    """Were it a constant, what was stored after the first loss would be current after the second."""
    reader = process()
    seen: set[bytes] = set()
    for turn in range(4):
        lose(server, reader)
        await reader.expect_missing("stale" if turn else "absent")
        await reader.expect_missing("stale" if turn else "absent")  # minted by now
        await reader.store(turn)
        seen.update(versions(server, reader))
    assert len(seen) >= 4


async def test_a_token_does_not_survive_the_loss_of_a_tag(server: RedisServer, process: Process) -> None:
    reader = process()
    token = await reader.token()
    lose(server, reader, CART[-1:])
    assert not await reader.fill(token, "old"), "while it is missing"
    await reader.token()
    assert not await reader.fill(token, "old"), "when it has been minted anew"


# ----------------------------------------------------------------------------------------------------- the epoch


async def test_nothing_from_before_the_loss_of_all_data_is_served(process: Process) -> None:
    with RedisServer() as mine:
        reader = process(mine.url)
        await reader.store("old")
        token = await reader.token()
        mine.restart(keep_data=False)
        await reader.expect_missing("absent")
        await reader.fill(token, "old")
        assert isinstance(await reader.lookup(), Missing)
        await reader.store("new")
        await reader.expect_value("new")


async def test_nothing_from_an_old_snapshot_is_served(process: Process) -> None:
    """The snapshot holds the entry and the versions it was current under; the write since then is forgotten."""
    with RedisServer() as mine:
        reader, writer = process(mine.url), process(mine.url)
        await reader.store("old")
        token = await reader.token()
        snapshot = mine.snapshot()
        await writer.end(await writer.begin())
        mine.restart(old_snapshot=snapshot)
        assert (await reader.expect_missing("stale")).dropped_by == "a restart or failover of Redis"
        await writer.expect_missing("stale")
        await reader.fill(token, "old")  # versions and fences are what they were: it is the epoch that is not
        await reader.expect_missing("stale")
        await writer.expect_missing("stale")
        await reader.store("new")
        await writer.expect_value("new")


async def test_nothing_from_a_replica_that_lagged_is_served_after_a_failover(process: Process) -> None:
    with SentinelSetup() as pair:
        reader, writer = process(pair.url), process(pair.url)
        await reader.store("old")
        token = await reader.token()
        pair.lag_replica()
        await writer.end(await writer.begin())
        await asyncio.to_thread(pair.kill_primary)
        await until_it_answers(reader)
        await until_it_answers(writer)
        await reader.expect_missing("stale")
        await writer.expect_missing("stale")
        await reader.fill(token, "old")
        await writer.expect_missing("stale")


async def until_it_answers(process: Process) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await process.lookup()
            except BackendError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_demoted_primary_that_keeps_its_connections_is_not_trusted(process: Process) -> None:
    """It goes on answering reads, from data under the very replication id that was current."""
    with RedisServer() as mine:
        reader = process(mine.url, connect_timeout=0.2)
        configure(backend=reader._backend)
        loads = 0

        @AgentCache("cart:{user}")
        async def get_cart(user: int) -> int:
            nonlocal loads
            loads += 1
            return loads

        await reader.store("old")
        token = await reader.token()
        assert [await get_cart(42), await get_cart(42)] == [1, 1]
        mine.cli("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(BackendError):
            await reader.lookup()
        with pytest.raises(BackendError):
            await reader.fill(token, "old")
        assert await get_cart(42) == 2, "the tool ran"
        mine.cli("REPLICAOF", "NO", "ONE")
        await until_it_answers(reader)
        await reader.expect_missing("stale")


# ------------------------------------------------------------------------------------------------- without effect


async def test_a_write_without_effect_brings_back_what_it_dropped(process: Process) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    window = await writer.begin()
    await reader.expect_blocked()
    await writer.end(window, no_effect=True)
    await reader.expect_value("old")


async def test_a_restore_moves_the_fence(server: RedisServer, process: Process) -> None:
    """The versions are those of before: without the fence, a load of before would be taken for one of now."""
    reader, writer = process(), process()
    await reader.store("old")
    stamp = await reader.token()
    before = versions(server, reader)
    await writer.end(await writer.begin(), no_effect=True)
    assert versions(server, reader) == before
    assert not await reader.fill(stamp, "read in the window")
    await reader.expect_value("old")
    await reader.store("new")


@pytest.mark.parametrize("refused_ends", ["first", "last"])
async def test_a_restore_takes_back_nobody_elses_write(process: Process, refused_ends: str) -> None:
    reader, refused, real = process(), process(), process()
    await reader.store("old")
    first = await refused.begin()
    second = await real.begin(writer="the real one")
    if refused_ends == "first":
        await refused.end(first, no_effect=True)
        await reader.expect_blocked()
        await real.end(second)
    else:
        await real.end(second)
        await reader.expect_blocked()
        await refused.end(first, no_effect=True)
    await reader.expect_missing("stale")


async def test_a_refused_write_inside_a_real_one_restores_nothing_of_before(process: Process) -> None:
    """ "I am the last one open" is not enough: what it would restore was written by a window still open."""
    reader, real, refused = process(), process(), process()
    await reader.store("old")
    outer = await real.begin()
    inner = await refused.begin()
    await refused.end(inner, no_effect=True)
    await reader.expect_blocked()
    await real.end(outer)
    await reader.expect_missing("stale")


async def test_a_window_whose_lease_has_ended_restores_nothing(process: Process) -> None:
    reader, writer = process(), process(write_lease=30)
    await reader.store("old")
    window = await writer.begin()
    await process.let_pass(31)
    await writer.end(window, no_effect=True)
    await reader.expect_missing("stale")


async def test_a_tool_that_says_it_had_no_effect_costs_other_processes_nothing(process: Process) -> None:
    here, there = process(), process()

    @AgentCacheInvalidator("cart:{user}", backend=here._backend)
    async def put_cart(user: int) -> None:
        raise NoEffect("refused")

    await there.store("old")
    with pytest.raises(NoEffect):
        await put_cart(42)
    await there.expect_value("old")


# ------------------------------------------------------------------------------------------------ unknown outcome


async def test_an_unknown_outcome_keeps_the_marker_for_the_settle_time(process: Process) -> None:
    reader, writer = process(), process(settle=5)
    await reader.store("old")
    await writer.end(await writer.begin(), unknown=True)
    await process.let_pass(4)
    await reader.expect_blocked()
    await process.let_pass(2)
    await reader.expect_missing("stale")
    await reader.store("new")


async def test_a_commit_that_comes_after_the_timeout_of_its_tool_is_seen(process: Process) -> None:
    here, there = process(settle=5), process()
    value = "old"

    @AgentCache("cart:{user}", backend=there._backend)
    async def get_cart(user: int) -> str:
        return value

    @AgentCacheInvalidator("cart:{user}", backend=here._backend)
    async def put_cart(user: int) -> None:
        raise TimeoutError

    assert await get_cart(42) == "old"
    with pytest.raises(TimeoutError):
        await put_cart(42)
    assert await get_cart(42) == "old", "it has not been committed yet"
    value = "new"  # by the server of the tool, which had got the request
    assert await get_cart(42) == "new"


async def test_a_known_outcome_leaves_no_marker(process: Process) -> None:
    reader, writer = process(), process(settle=5)
    await writer.end(await writer.begin())
    await reader.store("new")


# --------------------------------------------------------------------------------- what could not be delivered


async def test_an_attempt_to_begin_that_was_carried_out_unheard_does_not_block_after_the_end(
    server: RedisServer, process: Process, cut: Callable[[Process], Cut]
) -> None:
    reader, writer = process(), process()
    line = cut(writer)
    line.after = lambda slot, script: script is lua.BEGIN and not line.refused
    window = await writer.begin()
    assert line.refused == [lua.BEGIN]
    assert len(window.nonces[window.plan.groups[0]]) == 2, "each attempt has nonces of its own"
    record = server.cli("GET", tag_keys(writer, WRITE_CART)[0])
    assert int(record[26:30], 16) == 2, "both were carried out"
    await writer.end(window)
    await reader.expect_missing("absent")
    await reader.store("new")


async def test_a_begin_that_failed_though_it_was_carried_out_is_closed_in_the_background(
    process: Process, cut: Callable[[Process], Cut]
) -> None:
    reader, writer = process(), process()
    writer._backend._patience = 0.0
    line = cut(writer)
    line.after = lambda slot, script: script is lua.BEGIN
    with pytest.raises(BackendError):
        await writer.begin()
    assert line.refused
    await until_not_blocked(reader)
    await reader.store("new")


async def until_not_blocked(reader: Process) -> None:
    async with asyncio.timeout(20):
        while isinstance(await reader.lookup(), Blocked):
            await asyncio.sleep(0.01)


async def test_an_end_that_was_not_delivered_is_delivered_later_and_the_marker_holds_meanwhile(
    process: Process, cut: Callable[[Process], Cut], eventually: Eventually
) -> None:
    reader, writer = process(), process()
    writer._backend._patience = 0.0
    await reader.store("old")
    window = await writer.begin()
    line = cut(writer)
    line.before = lambda slot, script: script is lua.END
    with pytest.raises(BackendError):
        await writer.end(window)
    await eventually(lambda: len(line.refused) >= 3, "the keeper tries")
    await reader.expect_blocked()
    line.before = lambda slot, script: False
    await until_not_blocked(reader)
    await reader.expect_missing("stale")
    await reader.store("new")


async def test_an_end_that_was_carried_out_unheard_brings_nothing_back(
    server: RedisServer, process: Process, cut: Callable[[Process], Cut]
) -> None:
    """It is tried again after another write: the versions of its first attempt are not current once more."""
    reader, writer, other = process(), process(), process()
    window = await writer.begin()
    line, kept, late = cut(writer), b"another", "loaded before the other write"

    async def meanwhile() -> None:
        await reader.store(late, key=kept)
        tokens.append(await reader.token())
        await other.end(await other.begin())

    tokens: list[Token] = []
    line.after = lambda slot, script: script is lua.END and not line.refused
    line.meanwhile = meanwhile
    await writer.end(window)
    assert line.refused == [lua.END]
    assert isinstance(await reader.lookup(key=kept), Missing)
    assert not await reader.fill(tokens[0], late)


async def test_a_tag_minted_unheard_is_not_minted_the_same_again(
    server: RedisServer, process: Process, cut: Callable[[Process], Cut]
) -> None:
    """It is asked for again after a write, and after the loss of the record."""
    reader, other = process(), process()
    line, tokens = cut(reader), []

    async def meanwhile() -> None:
        tokens.append(await other.token())
        await other.end(await other.begin())
        lose(server, other)

    line.after = lambda slot, script: script is lua.TOKEN and not line.refused
    line.meanwhile = meanwhile
    mine = await reader.token()
    assert line.refused == [lua.TOKEN]
    assert mine != tokens[0]
    assert not await other.fill(tokens[0], "loaded before the write")


async def test_a_renewal_that_was_carried_out_unheard_moves_its_tags_to_a_version_of_its_own_each_time(
    server: RedisServer, process: Process, cut: Callable[[Process], Cut]
) -> None:
    writer = process()
    window = await writer.begin()
    line, seen = cut(writer), []

    async def meanwhile() -> None:
        seen.extend(versions(server, writer, WRITE_CART))
        lose(server, writer, WRITE_CART)

    lose(server, writer, WRITE_CART)
    line.after = lambda slot, script: script is lua.RENEW and not line.refused
    line.meanwhile = meanwhile
    await writer._backend._renew(window)
    assert len(line.refused) == 1
    assert not set(seen) & set(versions(server, writer, WRITE_CART))
    await writer.end(window)


async def test_an_end_that_is_delivered_after_the_backend_was_closed_leaves_no_connection(
    process: Process, cut: Callable[[Process], Cut], eventually: Eventually
) -> None:
    with RedisServer() as mine:
        reader, writer = process(mine.url), process(mine.url)
        writer._backend._patience = 0.0
        await reader.store("old")
        window = await writer.begin()
        line = cut(writer)
        line.before = lambda slot, script: script is lua.END
        with pytest.raises(BackendError):
            await writer.end(window)
        await writer._backend.close()
        line.before = lambda slot, script: False
        await until_not_blocked(reader)
        await reader.expect_missing("stale")
        await reader._backend.close()
        async with asyncio.timeout(2):
            await eventually(lambda: mine.info("clients")["connected_clients"] == "1", "ours, which asks")


async def test_a_cancelled_writer_is_closed_all_the_same(process: Process) -> None:
    here, there = process(settle=5), process()
    running = asyncio.Event()

    @AgentCacheInvalidator("cart:{user}", backend=here._backend)
    async def put_cart(user: int) -> None:
        running.set()
        await asyncio.Event().wait()

    await there.store("old")
    write = asyncio.create_task(put_cart(42))
    await running.wait()
    await there.expect_blocked()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await there.expect_blocked()  # nobody knows whether it was committed
    await process.let_pass(6)
    await there.expect_missing("stale")


# ------------------------------------------------------------------------------------------------------- scopes

MINE: Chain = ("session", "s1")
THEIRS: Chain = ("session", "s2")


@pytest.mark.parametrize(
    ("written", "mine", "theirs", "everyones"),
    [
        pytest.param((), True, True, True, id="everyone's"),
        pytest.param(MINE, True, False, False, id="mine"),
        pytest.param(THEIRS, False, True, False, id="theirs"),
    ],
)
async def test_a_scope_is_a_second_chain(
    process: Process, written: Chain, mine: bool, theirs: bool, everyones: bool
) -> None:
    reader, writer = process(), process()
    path = [("cart", "42")]
    reads = {chain: read_tags(path, chain) for chain in (MINE, THEIRS, ())}
    for chain, tags in reads.items():
        await reader.store("old", tags, key=repr(chain).encode(), chain=chain)
    window = await writer.begin(write_tags(path, written))
    await writer.end(window)
    gone = [isinstance(await reader.lookup(tags, repr(chain).encode()), Missing) for chain, tags in reads.items()]
    assert gone == [mine, theirs, everyones]


async def test_the_end_of_a_session_drops_its_chain_alone(process: Process) -> None:
    here, there = process(), process()
    reads = {chain: read_tags([("cart", "42")], chain) for chain in (MINE, THEIRS, ())}
    for chain, tags in reads.items():
        await here.store("old", tags, key=repr(chain).encode(), chain=chain)
    token = await here.token(reads[MINE])
    await here.drop_chain(MINE)
    await there.expect_missing("stale", reads[MINE], repr(MINE).encode())
    assert not await here.fill(token, "old")
    for chain in (THEIRS, ()):
        await there.expect_value("old", reads[chain], repr(chain).encode())


# ----------------------------------------------------------------------------------------------------- a Cluster


TWO = [("cart", "42"), ("stock", "7")]


def groups(process: Process, tags: Any) -> list[Any]:
    return list(process._backend._plan(tags).groups)


async def test_a_begin_that_fails_in_one_slot_closes_the_others(
    cluster: ClusterSetup, process: Process, cut: Callable[[Process], Cut]
) -> None:
    reader, writer = process(cluster.url), process(cluster.url)
    writer._backend._patience = 0.3
    cart, stock = groups(writer, write_tags(TWO, ()))
    line = cut(writer)
    opened = asyncio.Event()

    def at_stock(slot: bytes, script: Any) -> bool:
        return slot == stock.slot and script is lua.BEGIN

    def at_cart(slot: bytes, script: Any) -> bool:
        if slot == cart.slot and script is lua.BEGIN:
            opened.set()
        return False

    line.before, line.after = at_stock, at_cart
    with pytest.raises(BackendError):
        await writer.begin(write_tags(TWO, ()))
    assert opened.is_set(), "one slot was marked"
    assert line.refused
    await until_not_blocked(reader)
    await reader.store("new")


@pytest.mark.parametrize("moved", range(2))
async def test_a_read_of_two_slots_is_dropped_by_a_write_in_either(
    cluster: ClusterSetup, process: Process, moved: int
) -> None:
    reader, writer = process(cluster.url), process(cluster.url)
    both = read_tags(TWO, ())
    assert len(groups(reader, both)) > 1
    await reader.store("old", both)
    token = await reader.token(both)
    window = await writer.begin(write_tags(TWO[moved : moved + 1], ()))
    await reader.expect_blocked(both)
    assert not await reader.fill(token, "old")
    await writer.end(window)
    assert not await reader.fill(token, "old")
    assert isinstance(await reader.lookup(both), Missing)
    await reader.store("new", both)
    assert isinstance(await reader.lookup(both), Found)


# ------------------------------------------------------------------------------------------------------ told by its result


async def test_children_of_a_told_write_move_whole_and_are_published(
    server: RedisServer, backend_at: Callable[..., RedisBackend]
) -> None:
    backend = backend_at()
    await backend.move([("all", (), ("cart",))], "w")  # what has no record cannot be restored
    heard: list[bytes] = []
    async with redis.asyncio.Redis.from_url(server.url) as client, client.pubsub() as bus:
        await bus.subscribe(backend._names.bus)
        window = await backend.begin(write_tags([("cart",)], ()), "w")
        before = {tag: server_tag(server, backend, tag) for tag in write_tags([("cart", "42")], ())}
        await backend.end(window, unknown=False, no_effect=False, narrowed=write_tags([("cart", "42")], ()))
        async for message in bus.listen():
            if message["type"] == "message":
                heard.append(message["data"])
            if len(heard) == 2:
                break
    children = [("any", (), ("cart", "42")), ("all", (), ("cart", "42"))]
    for tag in children:
        after = server_tag(server, backend, tag)
        assert after is not None
        assert after.version == after.fence
        assert after != before[tag]
    told = {heard[1][at : at + 16] for at in range(0, len(heard[1]), 16)}
    assert told == set(backend.tag_ids([("any", (), ("cart",)), *children]))


async def test_children_that_were_there_get_a_new_fence(
    server: RedisServer, backend_at: Callable[..., RedisBackend]
) -> None:
    backend, child = backend_at(), ("any", (), ("cart", "42"))
    await backend.move([child], "w")
    before = server_tag(server, backend, child)
    window = await backend.begin(write_tags([("cart",)], ()), "w")
    await backend.end(window, unknown=False, no_effect=False, narrowed=write_tags([("cart", "42")], ()))
    after = server_tag(server, backend, child)
    assert before is not None
    assert after is not None
    assert before.version != after.version
    assert before.fence != after.fence


async def test_children_in_a_slot_without_a_window_narrow_nothing(
    cluster: ClusterSetup, backend_at: Callable[..., RedisBackend]
) -> None:
    """No resource's children are; but what cannot be moved in the step that restores must not be restored beside."""
    backend = backend_at(cluster.url)
    codec, tags = codec_for(Any), read_tags([("cart", "43")], ())
    found = await backend.lookup(b"k", tags, codec)
    assert isinstance(found, Missing)
    entry = NewEntry(b"k", codec.freeze(1), None, 0.0, "g", None, ())
    assert await backend.fill(found.token, entry)
    window = await backend.begin(write_tags([("cart",)], ()), "w")
    elsewhere = write_tags([("cart", "42"), ("somewhere", "else")], ())
    await backend.end(window, unknown=False, no_effect=False, narrowed=elsewhere)
    assert isinstance(await backend.lookup(b"k", tags, codec), Missing)


def server_tag(server: RedisServer, backend: RedisBackend, tag: Any) -> Any:
    return read_tag(server.cli("GET", backend._names.tag(tag).key))


# -- writes of many resources -------------------------------------------------------------------------------------------


async def test_a_write_of_thousands_of_resources_goes_in_parts(
    server: RedisServer, backend_at: Callable[..., RedisBackend], tap: Any
) -> None:
    mine, theirs = backend_at(tap.url), backend_at()
    names = [f"r{number}" for number in range(1_500)]
    state, some = [0], names[::499]
    says_no_effect = True

    @AgentCacheInvalidator(names, backend=mine)
    async def put() -> None:
        inside.append([await read() for read in reads])
        state[0] += 1
        if says_no_effect:
            raise NoEffect

    def reader(name: str) -> Callable[[], Awaitable[int]]:
        @AgentCache(name, backend=theirs)
        async def read() -> int:
            runs.append(name)
            return state[0]

        return read

    reads, runs, inside = [reader(name) for name in some], list[str](), list[list[int]]()
    for read in (*reads, *reads):
        await read()
    assert runs == some
    tap.forget()
    with pytest.raises(NoEffect):
        await put()
    scripts = [command for command in tap.commands if command[0] in (b"EVALSHA", b"EVAL")]
    assert max(int(command[2]) for command in scripts) <= 1_000
    assert sum(int(command[2]) for command in scripts if command[0] == b"EVALSHA") >= 2 * len(names)
    state[0], says_no_effect = 0, False
    runs.clear()
    assert [await read() for read in reads] == [0] * len(some)
    assert runs == [], "each of them is put back"
    await put()
    assert inside[1] == [0] * len(some)
    runs.clear()
    assert [await read() for read in reads] == [1] * len(some), "none that was loaded inside is kept, none from before"
    assert [await read() for read in reads] == [1] * len(some)
    assert runs == some
