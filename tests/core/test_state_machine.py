"""Whatever is called in whatever order: a read equals the live value, and what is stored is used."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, MemoryBackend, NoEffect, no_cache
from agent_cache.testing import FakeClock

ITEMS = st.integers(0, 3)
USERS = ("u1", "u2")


class Cache(RuleBasedStateMachine):
    """Decorated reads and writes of a dict. The model is the dict itself; only an unannounced change may stay unseen."""

    @initialize(maxsize=st.sampled_from([1, 2, None]), ttl=st.sampled_from([None, 10.0]))
    def build(self, maxsize: int | None, ttl: float | None) -> None:
        self.clock = FakeClock()
        self.backend = MemoryBackend(clock=self.clock, settle=2.0)
        self.live: dict[int, list[int]] = {item: [0] for item in range(4)}
        self.private = dict.fromkeys(USERS, 0)
        self.version = 0
        self.user = USERS[0]
        self.session: AgentCacheSession | None = None
        self.loads = self.calls = 0
        shared: dict[str, Any] = {"backend": self.backend, "maxsize": maxsize, "ttl": ttl}

        @AgentCache("machine:{item}", **shared)
        def one(item: int) -> list[int]:
            self.loads += 1
            return self.live[item]

        @AgentCache("machine", **shared)
        async def everything() -> dict[int, list[int]]:
            self.loads += 1
            await asyncio.sleep(0)
            return self.live

        @AgentCache("machine:{item}", scope="session", **shared)
        def in_session(item: int) -> list[int]:
            self.loads += 1
            return self.live[item]

        @AgentCache("machine-private", scope="user", **shared)
        def own() -> tuple[str, int]:
            self.loads += 1
            return self.user, self.private[self.user]

        @AgentCacheInvalidator("machine:{item}", backend=self.backend)
        def write(item: int, how: str) -> None:
            if how == "no effect":
                raise NoEffect
            self.version += 1
            self.live[item] = [self.version]
            if how == "raises":
                raise OSError

        @AgentCacheInvalidator("machine", backend=self.backend)
        async def write_all() -> None:
            self.version += 1
            await asyncio.sleep(0)
            self.live = {item: [self.version, item] for item in self.live}

        @AgentCacheInvalidator("machine-private", scope="user", backend=self.backend)
        def write_own() -> None:
            self.private[self.user] += 1

        @AgentCacheInvalidator(
            "machine", clear_all=False, key_fn=lambda args, kwargs: one.cache_key(args[0]), backend=self.backend
        )
        def touch(item: int) -> None: ...

        self.one, self.everything, self.in_session, self.own = one, everything, in_session, own
        self.write, self.write_all, self.write_own, self.touch = write, write_all, write_own, touch

    @rule(item=ITEMS, spoil=st.booleans())
    def read_one(self, item: int, spoil: bool) -> None:
        self.calls += 1
        got = self.one(item)
        assert got == self.live[item]
        if spoil and got is not self.live[item]:
            got.append(-1)  # the caller's own: nobody else sees it

    @rule()
    def read_everything(self) -> None:
        self.calls += 1
        assert asyncio.run(self.everything()) == self.live

    @rule(item=ITEMS)
    def read_in_session(self, item: int) -> None:
        self.calls += 1
        assert self.in_session(item) == self.live[item]

    @rule()
    def read_own(self) -> None:
        self.calls += 1
        assert self.own() == (self.user, self.private[self.user])

    @rule(item=ITEMS)
    def read_live(self, item: int) -> None:
        with no_cache():
            assert self.one(item) == self.live[item]

    @rule(item=ITEMS)
    def a_repeated_read_is_not_loaded_again(self, item: int) -> None:
        self.one(item)
        if self.one.explain(item):
            before = self.loads
            assert self.one(item) == self.live[item]
            assert self.loads == before

    @rule(item=ITEMS, how=st.sampled_from(["works", "raises", "no effect"]))
    def change_one(self, item: int, how: str) -> None:
        try:
            self.write(item, how)
        except (OSError, NoEffect):
            pass

    @rule()
    def change_everything(self) -> None:
        asyncio.run(self.write_all())

    @rule()
    def change_own(self) -> None:
        self.write_own()

    @rule(item=ITEMS)
    def drop_one_call(self, item: int) -> None:
        self.touch(item)
        assert not self.one.explain(item)

    @rule(item=ITEMS)
    def invalidate(self, item: int) -> None:
        self.one.invalidate(item)
        assert not self.one.explain(item)

    @rule()
    def invalidate_all(self) -> None:
        self.in_session.invalidate_all()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def clear(self) -> None:
        self.backend.sync.clear()

    @precondition(lambda self: self.session is None)
    @rule(user=st.sampled_from(USERS), keep=st.booleans())
    def enter(self, user: str, keep: bool) -> None:
        self.user = user
        self.session = AgentCacheSession("machine", loop_detection=False, identity={"user": user}, keep=keep)
        self.session.__enter__()

    @precondition(lambda self: self.session is not None)
    @rule()
    def leave(self) -> None:
        assert self.session is not None
        self.session.__exit__(None, None, None)
        self.session = None

    @invariant()
    def loads_are_no_more_than_calls_and_bounds_hold(self) -> None:
        if hasattr(self, "backend"):
            entries, size, _ = self.backend.sync.sizes()
            assert entries >= 0
            assert size >= 0

    def teardown(self) -> None:
        if getattr(self, "session", None) is not None:
            self.leave()


# One context throughout: what a rule enters, a later one leaves.
TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
