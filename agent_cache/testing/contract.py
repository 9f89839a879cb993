"""What every backend must do, as tests: subclass :class:`BackendContract`, say how to make yours, run pytest.

::

    class TestMine(BackendContract):
        def make(self, clock):
            return MyBackend(clock=clock, settle=self.settle)

Each scenario runs twice, on the asynchronous surface and on ``.sync``. The tests are plain methods that start
an event loop of their own, so no plugin and no test framework is imported here. What belongs here: what can be seen
through the ``Backend`` and ``KeyValue`` protocols. What does not: tools, sessions, and how a backend is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from agent_cache.backends.base import Blocked, Found, KeyValue, Lookup, Missing, NewEntry, Token, Window
from agent_cache.codecs import codec_for
from agent_cache.errors import AgentCacheError, ConfigurationError, UnstorableResultError
from agent_cache.tags import Chain, Tag, read_tags, write_tags
from agent_cache.testing.clock import FakeClock

__all__ = ["BackendContract"]

_CODEC = codec_for(Any)
_KEY = b"key-of-cart-42"
_CART = read_tags([("cart", "42")], ())
_OTHER = read_tags([("cart", "43")], ())
_WRITE_CART = write_tags([("cart", "42")], ())
_WRITE_OTHER = write_tags([("cart", "43")], ())
_SESSION: Chain = ("session", "s1")
_FAMILY = {
    ":".join(path): (read_tags([path], ()), f"key of {path}".encode())
    for path in (
        ("cart",),
        ("cart", "42"),
        ("cart", "42", "item"),
        ("cart", "43"),
        ("cart", "43", "item"),
        ("stock", "1"),
    )
}
"""Reads of a resource, of two below it and of what is below those, and of another resource."""


class _Face:
    """One surface of a backend, as coroutines: its own, or the blocking twin's."""

    def __init__(self, backend: Any, *, blocking: bool) -> None:
        self._backend = backend.sync if blocking else backend
        self._blocking = blocking

    async def _do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._backend, method)(*args, **kwargs)
        return result if self._blocking else await result

    # -- entries under tags

    async def lookup(self, tags: Sequence[Tag] = _CART, key: bytes | None = _KEY) -> Lookup:
        found: Lookup = await self._do("lookup", key, tags, _CODEC)
        return found

    async def token(self, tags: Sequence[Tag] = _CART) -> Token:
        found = await self.lookup(tags, None)
        assert isinstance(found, Missing), f"expected a token, got {found!r}"
        return found.token

    async def fill(self, token: Token, value: Any, **how: Any) -> bool:
        key = how.pop("key", _KEY)
        settings: dict[str, Any] = {
            "ttl": None, "load_seconds": 0.5, "group": "carts", "maxsize": None, "chain": (), **how,
        }  # fmt: skip
        accepted: bool = await self._do("fill", token, NewEntry(key, _CODEC.freeze(value), **settings))
        return accepted

    async def store(self, value: Any, tags: Sequence[Tag] = _CART, **how: Any) -> None:
        assert await self.fill(await self.token(tags), value, **how), "a fill under a current token was refused"

    async def begin(self, tags: Sequence[Tag] = _WRITE_CART, writer: str = "add_to_cart") -> Window:
        window: Window = await self._do("begin", tags, writer)
        return window

    async def end(
        self, window: Window, *, unknown: bool = False, no_effect: bool = False, narrowed: Sequence[Tag] | None = None
    ) -> None:
        await self._do("end", window, unknown=unknown, no_effect=no_effect, narrowed=narrowed)

    async def move(self, tags: Sequence[Tag] = _WRITE_CART, writer: str = "by_hand") -> None:
        await self._do("move", tags, writer)

    async def drop_chain(self, chain: Chain) -> None:
        await self._do("drop_chain", chain)

    # -- key-value

    async def get(self, key: Any, default: Any = None) -> Any:
        return await self._do("get", key, default=default)

    async def set(self, key: Any, value: Any, ttl: float | None = None) -> None:
        await self._do("set", key, value, ttl=ttl)

    async def delete(self, key: Any) -> Any:
        return await self._do("delete", key)

    async def exists(self, key: Any) -> Any:
        return await self._do("exists", key)

    async def clear(self) -> None:
        await self._do("clear")

    async def get_many(self, keys: Iterable[str]) -> Any:
        return await self._do("get_many", keys)

    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        await self._do("set_many", items, ttl=ttl)

    async def delete_pattern(self, pattern: str) -> Any:
        return await self._do("delete_pattern", pattern)

    async def count(self) -> Any:
        return await self._do("count")

    async def stats(self) -> Any:
        return await self._do("stats")

    async def keys(self) -> AbstractSet[str]:
        if self._blocking:
            return set(self._backend.keys())
        return {key async for key in self._backend.keys()}  # noqa: SIM118 - a method, not a dict's view

    # -- verdicts

    async def expect_value(self, value: Any, tags: Sequence[Tag] = _CART, key: bytes = _KEY) -> Found:
        found = await self.lookup(tags, key)
        assert isinstance(found, Found), f"expected a current entry, got {found!r}"
        assert found.stored.fresh() == value
        return found

    async def expect_missing(self, why: str, tags: Sequence[Tag] = _CART, key: bytes = _KEY) -> Missing:
        found = await self.lookup(tags, key)
        assert isinstance(found, Missing), f"expected nothing current, got {found!r}"
        assert found.why == why, f"expected {why!r}, got {found.why!r}"
        return found

    async def expect_blocked(self, tags: Sequence[Tag] = _CART) -> None:
        found = await self.lookup(tags)
        assert isinstance(found, Blocked), f"expected word that a write is running, got {found!r}"


async def _raises(expected: type[BaseException], work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except expected:
        return
    raise AssertionError(f"{expected.__name__} was not raised")


Scenario = Callable[[_Face], Coroutine[Any, Any, None]]


class BackendContract:
    """The consistency rules and the key-value surface. Override :meth:`make`; see the module."""

    settle: float = 5.0
    """Seconds a window with unknown outcome goes on blocking; :meth:`make` builds the backend with it."""

    bounds_groups: bool = True
    """Whether ``maxsize`` bounds one tool's entries here (a shared store leaves that to the near tier)."""

    clock: FakeClock
    backend: Any
    """The backend under test; so that :meth:`advance` can reach it."""

    def make(self, clock: FakeClock) -> Any:
        """A fresh, empty backend whose time is ``clock``. Called inside a running event loop."""
        raise NotImplementedError("override make(self, clock) to return a fresh backend")

    async def advance(self, seconds: float) -> None:
        """Let time pass. Override it for a backend whose time cannot be injected."""
        self.clock.advance(seconds)

    async def settled(self) -> None:
        """Wait until what was stored is where it belongs; for a backend that writes behind."""

    def _run(self, scenario: Scenario) -> None:
        for blocking in (False, True):
            asyncio.run(self._run_on(scenario, blocking=blocking))

    async def _run_on(self, scenario: Scenario, *, blocking: bool) -> None:
        self.clock = FakeClock()
        backend = self.backend = self.make(self.clock)
        try:
            await scenario(_Face(backend, blocking=blocking))
        finally:
            await backend.close()

    # -- tokens and fills -------------------------------------------------------------------------------------------

    def test_nothing_stored_is_absent(self) -> None:
        async def scenario(b: _Face) -> None:
            missing = await b.expect_missing("absent")
            assert missing.dropped_by is None

        self._run(scenario)

    def test_a_fill_under_a_current_token_is_a_hit(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store({"items": [1, "one", None]}, load_seconds=2.5)
            await self.advance(3)
            found = await b.expect_value({"items": [1, "one", None]})
            assert found.load_seconds == 2.5
            assert found.ttl_left is None
            assert 2.9 <= found.age <= 3.5

        self._run(scenario)

    def test_equal_moments_give_equal_tokens(self) -> None:
        async def scenario(b: _Face) -> None:
            one, two = await b.token(), await b.token()
            assert one == two
            assert hash(one) == hash(two)
            assert one != await b.token(_OTHER)

        self._run(scenario)

    def test_a_token_can_be_had_although_an_entry_is_stored(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            assert await b.fill(await b.token(), "new")
            await b.expect_value("new")

        self._run(scenario)

    def test_a_fill_is_refused_when_a_tag_was_moved(self) -> None:
        async def scenario(b: _Face) -> None:
            token = await b.token()
            await b.move()
            assert not await b.fill(token, "old")
            await b.expect_missing("absent")
            assert token != await b.token()

        self._run(scenario)

    def test_a_fill_is_refused_while_a_window_is_open_and_after(self) -> None:
        async def scenario(b: _Face) -> None:
            token = await b.token()
            window = await b.begin()
            assert not await b.fill(token, "old")
            await b.end(window)
            assert not await b.fill(token, "old")
            await b.expect_missing("absent")

        self._run(scenario)

    def test_a_write_elsewhere_refuses_nothing(self) -> None:
        async def scenario(b: _Face) -> None:
            token = await b.token()
            window = await b.begin(_WRITE_OTHER)
            assert await b.fill(token, "kept")
            await b.end(window)
            await b.move(_WRITE_OTHER)
            await b.expect_value("kept")

        self._run(scenario)

    def test_every_caller_gets_a_value_of_its_own(self) -> None:
        async def scenario(b: _Face) -> None:
            value = {"items": ["milk"]}
            await b.store(value)
            value["items"].append("mine")
            found = await b.expect_value({"items": ["milk"]})
            found.stored.fresh()["items"].append("also mine")
            await b.expect_value({"items": ["milk"]})

        self._run(scenario)

    # -- dropping -----------------------------------------------------------------------------------------------------

    def test_moving_a_tag_drops_the_entry_and_names_the_writer(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            await b.move(writer="by_hand")
            assert (await b.expect_missing("stale")).dropped_by == "by_hand"

        self._run(scenario)

    def test_a_dropped_entry_never_comes_back(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            for _ in range(4):
                await b.move()
                await b.expect_missing("stale")

        self._run(scenario)

    def test_a_write_drops_the_path_above_and_below_and_not_beside(self) -> None:
        async def scenario(b: _Face) -> None:
            paths = {
                b"list": ("cart",),
                b"one": ("cart", "42"),
                b"below": ("cart", "42", "a"),
                b"beside": ("cart", "43"),
            }
            tags = {key: read_tags([path], ()) for key, path in paths.items()}
            for key in paths:
                await b.store("x", tags[key], key=key)
            await b.move(_WRITE_CART)
            for key in (b"list", b"one", b"below"):
                await b.expect_missing("stale", tags[key], key)
            await b.expect_value("x", tags[b"beside"], b"beside")

        self._run(scenario)

    def test_drop_chain_deletes_that_chain_only(self) -> None:
        async def scenario(b: _Face) -> None:
            mine, others = read_tags([("cart",)], _SESSION), read_tags([("cart",)], ("session", "s2"))
            await b.store("mine", mine, key=b"mine", chain=_SESSION)
            await b.store("other's", others, key=b"other", chain=("session", "s2"))
            await b.store("everyone's", read_tags([("cart",)], ()), key=b"all")
            await b.drop_chain(_SESSION)
            await b.drop_chain(("session", "never seen"))
            assert isinstance(await b.lookup(mine, b"mine"), Missing)
            await b.expect_value("other's", others, b"other")
            await b.expect_value("everyone's", read_tags([("cart",)], ()), b"all")

        self._run(scenario)

    def test_clear_drops_entries_and_refuses_loads_under_way(self) -> None:
        async def scenario(b: _Face) -> None:
            token = await b.token(_OTHER)
            await b.store("old")
            await b.clear()
            assert isinstance(await b.lookup(), Missing)
            assert not await b.fill(token, "old", key=b"other")
            await b.store("new")
            await b.expect_value("new")

        self._run(scenario)

    # -- write windows ------------------------------------------------------------------------------------------------

    def test_an_open_window_blocks_until_it_is_closed(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            window = await b.begin()
            assert not window.closed
            await b.expect_blocked()
            await b.store("other", _OTHER, key=b"other")
            await b.end(window)
            assert window.closed
            assert (await b.expect_missing("stale")).dropped_by == "add_to_cart"
            await b.store("new")
            await b.expect_value("new")

        self._run(scenario)

    def test_overlapping_windows_block_until_the_last_is_closed(self) -> None:
        async def scenario(b: _Face) -> None:
            first, second = await b.begin(), await b.begin()
            await b.end(first)
            await b.expect_blocked()
            await b.end(second)
            await b.expect_missing("absent")

        self._run(scenario)

    def test_closing_a_window_twice_changes_nothing(self) -> None:
        async def scenario(b: _Face) -> None:
            first, second = await b.begin(), await b.begin()
            await b.end(first)
            await b.end(first)
            await b.expect_blocked()
            await b.end(second)
            await b.store("new")
            await b.end(second)
            await b.expect_value("new")

        self._run(scenario)

    def test_an_unknown_outcome_blocks_for_the_settle_time(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            await b.end(await b.begin(), unknown=True)
            await b.expect_blocked()
            await self.advance(self.settle * 0.9)
            await b.expect_blocked()
            await self.advance(self.settle * 0.2)
            assert isinstance(await b.lookup(), Missing)
            await b.store("new")
            await b.expect_value("new")

        self._run(scenario)

    def test_settling_outlives_a_later_write_that_ended_well(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.end(await b.begin(), unknown=True)
            await b.end(await b.begin())
            await b.expect_blocked()

        self._run(scenario)

    # -- writes without effect ------------------------------------------------------------------------------------------

    def test_a_write_without_effect_restores_the_entry(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("kept")
            window = await b.begin()
            await b.expect_blocked()
            await b.end(window, no_effect=True)
            await b.expect_value("kept")

        self._run(scenario)

    def test_a_write_without_effect_still_refuses_loads_under_way(self) -> None:
        async def scenario(b: _Face) -> None:
            token = await b.token()
            await b.end(await b.begin(), no_effect=True)
            assert token != await b.token()
            assert not await b.fill(token, "seen inside the window")
            await b.store("new")
            await b.expect_value("new")

        self._run(scenario)

    def test_nothing_is_restored_that_someone_else_moved(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            window = await b.begin()
            await b.move()
            await b.end(window, no_effect=True)
            await b.expect_missing("stale")

        self._run(scenario)

    def test_a_write_with_effect_beside_one_without_drops_the_entry(self) -> None:
        for order in ((0, 1), (1, 0)):

            async def scenario(b: _Face, order: tuple[int, int] = order) -> None:
                await b.store("old")
                windows = await b.begin(), await b.begin()
                for index in order:
                    await b.end(windows[index], no_effect=index == 0)
                await b.expect_missing("stale")

            self._run(scenario)

    def test_nested_writes_without_effect_restore_the_entry(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("kept")
            outer = await b.begin()
            inner = await b.begin()
            await b.end(inner, no_effect=True)
            await b.end(outer, no_effect=True)
            await b.expect_value("kept")

        self._run(scenario)

    def test_clear_inside_a_window_without_effect_restores_nothing(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            window = await b.begin()
            await b.clear()
            await b.end(window, no_effect=True)
            assert isinstance(await b.lookup(), Missing)

        self._run(scenario)

    # -- writes that are known by their result ---------------------------------------------------------------------------

    def test_a_narrowed_write_drops_what_it_wrote_and_what_lists_it(self) -> None:
        async def scenario(b: _Face) -> None:
            await self._store_family(b)
            window = await b.begin(write_tags([("cart",)], ()))
            await self._expect_family(b, dict.fromkeys(_FAMILY, Blocked))
            await b.end(window, narrowed=write_tags([("cart", "42")], ()))
            gone = {"cart", "cart:42", "cart:42:item"}
            await self._expect_family(b, {name: Missing if name in gone else Found for name in _FAMILY})

        self._run(scenario)

    def test_a_narrowed_write_still_refuses_loads_under_way(self) -> None:
        async def scenario(b: _Face) -> None:
            tokens = {name: await b.token(tags) for name, (tags, _) in _FAMILY.items()}
            window = await b.begin(write_tags([("cart",)], ()))
            await b.end(window, narrowed=write_tags([("cart", "42")], ()))
            for name, token in tokens.items():
                accepted = await b.fill(token, "seen before", key=_FAMILY[name][1])
                assert accepted is (name == "stock:1"), name

        self._run(scenario)

    def test_a_narrowed_write_restores_nothing_that_someone_else_moved(self) -> None:
        async def scenario(b: _Face) -> None:
            await self._store_family(b)
            window = await b.begin(write_tags([("cart",)], ()))
            await b.move([("all", (), ("cart",))])
            await b.end(window, narrowed=write_tags([("cart", "42")], ()))
            await self._expect_family(b, dict.fromkeys(_FAMILY, Missing))

        self._run(scenario)

    def test_narrowed_writes_that_overlap_drop_what_each_wrote(self) -> None:
        for order in ((0, 1), (1, 0)):

            async def scenario(b: _Face, order: tuple[int, int] = order) -> None:
                await self._store_family(b)
                windows = [await b.begin(write_tags([("cart",)], ())) for _ in range(2)]
                for index in order:
                    await b.end(windows[index], narrowed=write_tags([("cart", ("42", "43")[index])], ()))
                for name in ("cart", "cart:42", "cart:42:item", "cart:43"):
                    assert isinstance(await b.lookup(*_FAMILY[name]), Missing), name

            self._run(scenario)

    def test_a_narrowed_write_beside_one_of_all_narrows_nothing(self) -> None:
        for order in ((0, 1), (1, 0)):

            async def scenario(b: _Face, order: tuple[int, int] = order) -> None:
                await self._store_family(b)
                windows = [await b.begin(write_tags([("cart",)], ())) for _ in range(2)]
                for index in order:
                    await b.end(windows[index], narrowed=(write_tags([("cart", "42")], ()), None)[index])
                await self._expect_family(b, dict.fromkeys(_FAMILY, Missing))

            self._run(scenario)

    def test_a_narrowed_write_beside_one_of_another_child_restores_neither(self) -> None:
        """The other one is named, and ends while the parent's window is open: what it dropped stays dropped."""

        async def scenario(b: _Face) -> None:
            await self._store_family(b)
            outer = await b.begin(write_tags([("cart",)], ()))
            inner = await b.begin(write_tags([("cart", "43")], ()))
            await b.end(inner)
            await b.end(outer, narrowed=write_tags([("cart", "42")], ()))
            for name in ("cart", "cart:42", "cart:43"):
                assert isinstance(await b.lookup(*_FAMILY[name]), Missing), name

        self._run(scenario)

    def test_what_a_narrowed_write_names_beside_moves_whole(self) -> None:
        async def scenario(b: _Face) -> None:
            await self._store_family(b)
            window = await b.begin(write_tags([("cart",), ("stock",)], ()))
            await b.end(window, narrowed=write_tags([("cart", "42"), ("stock",)], ()))
            assert isinstance(await b.lookup(*_FAMILY["stock:1"]), Missing)
            assert isinstance(await b.lookup(*_FAMILY["cart:43"]), Found)

        self._run(scenario)

    def test_an_unknown_outcome_is_not_narrowed(self) -> None:
        async def scenario(b: _Face) -> None:
            await self._store_family(b)
            window = await b.begin(write_tags([("cart",)], ()))
            await b.end(window, unknown=True, narrowed=write_tags([("cart", "42")], ()))
            await self.advance(2 * self.settle)
            for name in ("cart", "cart:42", "cart:43"):
                assert isinstance(await b.lookup(*_FAMILY[name]), Missing), name

        self._run(scenario)

    async def _store_family(self, b: _Face) -> None:
        for name, (tags, key) in _FAMILY.items():
            await b.store(name, tags, key=key)

    async def _expect_family(self, b: _Face, expected: Mapping[str, type]) -> None:
        for name, kind in expected.items():
            if name == "stock:1":
                kind = Found
            found = await b.lookup(*_FAMILY[name])
            assert isinstance(found, kind), f"{name}: {found}"

    # -- time and room --------------------------------------------------------------------------------------------------

    def test_an_entry_expires(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10)
            await self.advance(4)
            left = (await b.expect_value("old")).ttl_left
            assert left is not None
            assert 5.5 <= left <= 6
            await self.advance(6)
            assert isinstance(await b.lookup(), Missing)
            await b.store("new", ttl=10)
            await b.expect_value("new")

        self._run(scenario)

    def test_an_expired_entry_is_kept_for_its_grace_and_is_no_hit(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10, grace=20)
            await self.advance(4)
            found = await b.expect_value("old")
            assert found.ttl_left is not None
            assert 5.5 <= found.ttl_left <= 6, "the grace is no part of the freshness"
            await self.advance(10)
            missing = await b.expect_missing("expired")
            kept = missing.kept
            assert kept is not None
            assert kept.stored.fresh() == "old"
            assert kept.ttl_left is not None
            assert -4.5 <= kept.ttl_left <= -3.5
            assert kept.near is None, "nobody may serve it without asking"
            assert kept.stamp == missing.token.stamp
            await self.settled()
            kept = (await b.expect_missing("expired")).kept
            assert kept is not None, "once it is where it belongs, too"
            await self.advance(17)
            assert getattr(await b.lookup(), "kept", None) is None, "the grace is over"

        self._run(scenario)

    def test_an_entry_without_grace_is_gone_when_it_expires(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10)
            await self.advance(11)
            missing = await b.lookup()
            assert isinstance(missing, Missing)
            assert missing.kept is None

        self._run(scenario)

    def test_what_a_write_dropped_is_not_kept(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10, grace=20)
            await self.advance(12)
            await b.move()
            assert (await b.expect_missing("stale")).kept is None

        self._run(scenario)

    def test_nothing_is_kept_while_a_write_runs_and_a_write_without_effect_drops_nothing(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10, grace=20)
            await self.settled()
            await self.advance(12)
            window = await b.begin()
            await b.expect_blocked()
            await b.end(window, no_effect=True)
            kept = (await b.expect_missing("expired")).kept
            assert kept is not None
            assert kept.stored.fresh() == "old"

        self._run(scenario)

    def test_a_fill_makes_a_kept_entry_fresh_again(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old", ttl=10, grace=20)
            await self.advance(12)
            missing = await b.expect_missing("expired")
            assert await b.fill(missing.token, "new", ttl=10, grace=20)
            found = await b.expect_value("new")
            assert found.ttl_left is not None
            assert found.ttl_left > 9

        self._run(scenario)

    def test_maxsize_bounds_one_group(self) -> None:
        if not self.bounds_groups:
            return

        async def scenario(b: _Face) -> None:
            await b.store("else", _OTHER, key=b"else", group="other tool", maxsize=2)
            for number in range(5):
                await b.store(number, key=b"%d" % number, maxsize=2)
            await self.settled()
            found = [number for number in range(5) if isinstance(await b.lookup(_CART, b"%d" % number), Found)]
            assert len(found) <= 2
            assert 4 in found
            await b.expect_value("else", _OTHER, b"else")

        self._run(scenario)

    def test_a_near_entry_is_over_once_its_home_changed(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("old")
            found = await b.expect_value("old")
            if found.near is None:
                return
            assert found.generation is found.near.home.generation
            await b.move()
            assert found.generation is not found.near.home.generation

        self._run(scenario)

    # -- key-value ------------------------------------------------------------------------------------------------------

    def test_it_is_a_key_value_cache(self) -> None:
        async def scenario(b: _Face) -> None:
            assert await b.get("k") is None
            await b.set("k", {"a": [1, 2.0, "x"]})
            assert await b.get("k") == {"a": [1, 2.0, "x"]}
            assert await b.exists("k")
            assert await b.delete("k") is True
            assert await b.delete("k") is False
            assert not await b.exists("k")

        self._run(scenario)

    def test_it_satisfies_the_key_value_protocol(self) -> None:
        async def scenario() -> None:
            self.clock = FakeClock()
            backend = self.make(self.clock)
            assert isinstance(backend, KeyValue)
            async with backend as same:
                assert same is backend
                await backend.set("k", 1)

        asyncio.run(scenario())

    def test_a_stored_none_is_a_value(self) -> None:
        async def scenario(b: _Face) -> None:
            missing = object()
            assert await b.get("k", missing) is missing
            await b.set("k", None)
            assert await b.get("k", missing) is None
            assert await b.exists("k")
            assert await b.get_many(["k", "l"]) == {"k": None}

        self._run(scenario)

    def test_types_come_back_as_they_went(self) -> None:
        async def scenario(b: _Face) -> None:
            for value in (1, 1.0, True, "1", b"1", (1, 2), [1, 2], {1: "a"}, {1, 2}, ""):
                await b.set("k", value)
                got = await b.get("k")
                assert got == value
                assert type(got) is type(value)

        self._run(scenario)

    def test_a_key_expires(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.set("short", 1, ttl=10)
            await b.set_many({"m1": 1, "m2": 2}, ttl=10)
            await b.set("long", 1)
            await self.advance(9)
            assert await b.get("short") == 1
            await self.advance(2)
            assert await b.get("short", "gone") == "gone"
            assert not await b.exists("short")
            assert await b.delete("short") is False
            assert await b.keys() == {"long"}
            assert await b.count() == 1

        self._run(scenario)

    def test_setting_again_replaces_value_and_ttl(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.set("k", 1, ttl=10)
            await b.set("k", 2)
            await self.advance(20)
            assert await b.get("k") == 2
            assert await b.count() == 1

        self._run(scenario)

    def test_many_at_once(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.set_many({"a": 1, "b": [2], "c": None})
            assert await b.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": [2], "c": None}
            assert await b.get_many([]) == {}
            assert await b.keys() == {"a", "b", "c"}

        self._run(scenario)

    def test_many_at_once_are_stored_together_or_refused_together(self) -> None:
        async def scenario(b: _Face) -> None:
            await _raises(UnstorableResultError, b.set_many({"a": 1, "b": object()}))
            assert await b.keys() == set()

        self._run(scenario)

    def test_what_is_no_list_of_keys_and_no_mapping_is_refused(self) -> None:
        async def scenario(b: _Face) -> None:
            wrong: Any
            for wrong in ("ab", 5, [1]):
                await _raises(ConfigurationError, b.get_many(wrong))
            for wrong in ([("a", 1)], {5: 1}):
                await _raises(ConfigurationError, b.set_many(wrong))
            for wrong in (5, None):
                await _raises(ConfigurationError, b.delete_pattern(wrong))
            assert await b.keys() == set()

        self._run(scenario)

    def test_patterns_and_their_escape(self) -> None:
        async def scenario(b: _Face) -> None:
            names = ["user:1", "user:22", "user:*", "User:1", "order:1", "user:[x]"]
            await b.set_many(dict.fromkeys(names, 0))
            assert await b.delete_pattern("user:[*]") == 1
            assert await b.delete_pattern("user:?") == 1
            assert await b.delete_pattern("nothing*") == 0
            assert await b.keys() == {"user:22", "User:1", "order:1", "user:[x]"}
            assert await b.delete_pattern("user:[[]x]") == 1
            assert await b.delete_pattern("*") == 3
            assert await b.count() == 0

        self._run(scenario)

    def test_patterns_and_keys_leave_tool_entries_alone(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.store("a tool's")
            await b.set("k", 1)
            assert await b.keys() == {"k"}
            assert await b.count() == 1
            assert await b.delete_pattern("*") == 1
            await b.expect_value("a tool's")

        self._run(scenario)

    def test_clear_empties_it(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.set_many({"a": 1, "b": 2})
            await b.clear()
            assert await b.count() == 0
            assert await b.get("a", "gone") == "gone"
            await b.set("a", 3)
            assert await b.get("a") == 3

        self._run(scenario)

    def test_stats_count_hits_and_misses(self) -> None:
        async def scenario(b: _Face) -> None:
            before = await b.stats()
            await b.set("k", 1)
            await b.get("k")
            await b.get("k")
            await b.get("nothing")
            after = await b.stats()
            assert after["hits"] - before["hits"] == 2
            assert after["misses"] - before["misses"] == 1
            assert after["entries"] - before["entries"] == 1
            assert isinstance(after["backend"], str)

        self._run(scenario)

    def test_a_key_value_caller_owns_its_value(self) -> None:
        async def scenario(b: _Face) -> None:
            value = {"items": [1]}
            await b.set("k", value)
            value["items"].append(2)
            (await b.get("k"))["items"].append(3)
            (await b.get_many(["k"]))["k"]["items"].append(4)
            assert await b.get("k") == {"items": [1]}

        self._run(scenario)

    def test_what_cannot_be_stored_is_refused_and_leaves_the_old_value(self) -> None:
        async def scenario(b: _Face) -> None:
            await b.set("k", 1)
            await _raises(UnstorableResultError, b.set("k", (n for n in range(3))))
            assert await b.get("k") == 1

        self._run(scenario)

    def test_a_key_must_be_text_and_a_ttl_positive(self) -> None:
        async def scenario(b: _Face) -> None:
            for key in (1, b"bytes", None, ("a",)):
                await _raises(AgentCacheError, b.get(key))
                await _raises(AgentCacheError, b.set(key, 1))
                await _raises(AgentCacheError, b.delete(key))
                await _raises(AgentCacheError, b.exists(key))
            for ttl in (-1.0, 0.0, float("nan")):
                await _raises(AgentCacheError, b.set("k", 1, ttl=ttl))
            assert await b.count() == 0

        self._run(scenario)

    def test_any_text_is_a_key(self) -> None:
        async def scenario(b: _Face) -> None:
            names = ["", " ", "a b", "ключ", "a\nb", "a\0b", "x" * 1000, "*", "a:b/c"]
            for number, name in enumerate(names):
                await b.set(name, number)
            assert await b.get_many(names) == {name: number for number, name in enumerate(names)}

        self._run(scenario)

    def test_both_surfaces_see_one_store(self) -> None:
        async def scenario() -> None:
            self.clock = FakeClock()
            backend = self.make(self.clock)
            await backend.set("k", 1)
            assert backend.sync.get("k") == 1
            backend.sync.set("l", 2)
            assert await backend.get("l") == 2
            await backend.close()

        asyncio.run(scenario())
