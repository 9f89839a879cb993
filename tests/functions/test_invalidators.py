"""AsyncLRUInvalidator and AsyncTTLInvalidator."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agent_cache import (
    KEY,
    AgentCache,
    AgentCacheSession,
    AsyncLRU,
    AsyncLRUInvalidator,
    AsyncTTL,
    AsyncTTLInvalidator,
    ConfigurationError,
    MemoryBackend,
    NoEffect,
)

USERS: dict[int, str] = {}


@pytest.fixture(autouse=True)
def _users() -> None:
    USERS.clear()
    USERS.update({1: "ann", 2: "bob"})


def _reader(backend: Any = None) -> Any:
    @AsyncLRU(backend=backend)
    async def get_user(user_id: int) -> list[str]:
        loads.append(user_id)
        return [USERS[user_id]]

    loads: list[int] = []
    get_user.loads = loads  # type: ignore[attr-defined]
    return get_user


async def test_the_read_is_found_by_its_parameters_names(backend: Any) -> None:
    get_user = _reader(backend)

    @AsyncLRUInvalidator(get_user)
    async def update_user(data: str, user_id: int) -> str:
        USERS[user_id] = data
        return "done"

    assert [await get_user(1), await get_user(2)] == [["ann"], ["bob"]]
    assert await update_user("eve", user_id=1) == "done"
    assert [await get_user(1), await get_user(2)] == [["eve"], ["bob"]]
    assert get_user.loads == [1, 2, 1]


async def test_clear_all_drops_every_call(backend: Any) -> None:
    get_user = _reader(backend)

    @AsyncLRUInvalidator(get_user, clear_all=True)
    async def import_users(users: dict[int, str]) -> None:
        USERS.update(users)

    await get_user(1)
    await import_users({1: "eve"})
    assert await get_user(1) == ["eve"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda get_user, ids: ((ids[0],), {}),
        lambda get_user, ids: ((), {"user_id": ids[0]}),
        lambda get_user, ids: KEY((ids[0],)),
        lambda get_user, ids: get_user.cache_key(ids[0]),
        lambda get_user, ids: [((each,), {}) for each in ids],
    ],
    ids=["args", "kwargs", "KEY", "cache_key", "several"],
)
async def test_key_fn_names_the_read(answer: Any) -> None:
    get_user = _reader()

    @AsyncTTLInvalidator(get_user, key_fn=lambda args, kwargs: answer(get_user, args[0]))
    async def rename(ids: list[int], to: str) -> None:
        for each in ids:
            USERS[each] = to

    await get_user(1)
    await rename([1], "eve")
    assert await get_user(1) == ["eve"]


async def test_skip_args_passes_over_self() -> None:
    get_user = _reader()

    class Admin:
        @AsyncLRUInvalidator(get_user, skip_args=1)
        async def update_user(self, user_id: int, data: str) -> None:
            USERS[user_id] = data

        @AsyncLRUInvalidator(get_user, skip_args=1, key_fn=lambda args, kwargs: ((args[0],), {}))
        async def rename(self, who: int, data: str) -> None:
            USERS[who] = data

    await get_user(1)
    await Admin().update_user(1, "eve")
    assert await get_user(1) == ["eve"]
    await Admin().rename(1, "fay")
    assert await get_user(1) == ["fay"]


async def test_a_method_under_the_cache_is_found_without_its_self() -> None:
    class Users:
        @AsyncLRU(skip_args=1)
        async def get(self, user_id: int) -> str:
            return USERS[user_id]

        @AsyncLRUInvalidator(get)
        async def put(self, user_id: int, name: str) -> None:
            USERS[user_id] = name

        @AsyncLRUInvalidator(get, skip_args=1, key_fn=lambda args, kwargs: (args[:1], {}))
        async def put_too(self, who: int, name: str) -> None:
            USERS[who] = name

    users = Users()
    await users.get(1)
    await users.put(1, "eve")
    assert await users.get(1) == "eve"
    await users.put_too(1, "fay")
    assert await users.get(1) == "fay"


async def test_a_write_may_be_def_and_take_any_arguments() -> None:
    @AsyncLRU()
    async def search(*words: str, **how: int) -> list[Any]:
        return [words, how, USERS[1]]

    @AsyncLRUInvalidator(search)
    def index(first: int, *words: str, **how: int) -> None:
        USERS[1] = "new"

    assert (await search("a", "b", limit=1))[2] == "ann"
    index(0, "a", "b", limit=1)
    assert (await search("a", "b", limit=1))[2] == "new"


async def test_a_function_without_parameters_has_one_call() -> None:
    @AsyncLRU()
    async def count() -> int:
        return len(USERS)

    @AsyncLRUInvalidator(count)
    async def add(user_id: int, name: str) -> None:
        USERS[user_id] = name

    assert await count() == 2
    await add(3, "eve")
    assert await count() == 3


async def test_the_write_wins_over_a_load_that_overlaps_it(backend: Any) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    @AsyncLRU(backend=backend)
    async def get_user(user_id: int) -> str:
        name = USERS[user_id]
        running.set()
        await gate.wait()
        return name

    @AsyncLRUInvalidator(get_user)
    async def update_user(user_id: int, data: str) -> None:
        USERS[user_id] = data

    loading = asyncio.create_task(get_user(1))
    await running.wait()
    await update_user(1, "eve")
    joining = asyncio.create_task(get_user(1))
    await asyncio.sleep(0)
    gate.set()
    assert await loading == "ann"
    assert await joining == "eve"
    assert await get_user(1) == "eve"


async def test_a_write_that_fails_drops_and_one_without_effect_does_not() -> None:
    get_user = _reader()

    @AsyncLRUInvalidator(get_user)
    async def update_user(user_id: int, error: Exception) -> None:
        raise error

    await get_user(1)
    with pytest.raises(NoEffect):
        await update_user(1, NoEffect())
    await get_user(1)
    assert get_user.loads == [1]
    with pytest.raises(OSError, match="lost"):
        await update_user(1, OSError("lost"))
    await get_user(1)
    assert get_user.loads == [1, 1]


async def test_inside_a_session_it_drops_what_is_cached_outside() -> None:
    get_user = _reader()

    @AsyncLRUInvalidator(get_user)
    async def update_user(user_id: int, data: str) -> None:
        USERS[user_id] = data

    await get_user(1)
    async with AgentCacheSession(backend=MemoryBackend(), max_tool_repeats=1):
        for name in ("a", "b", "b", "b"):
            await update_user(1, name)
        assert await get_user(1) == ["b"]
    assert await get_user(1) == ["b"]


@pytest.mark.parametrize(
    "key_fn", [lambda args, kwargs: 1 / 0, lambda args, kwargs: None, lambda args, kwargs: ("a", 1)]
)
async def test_a_key_fn_that_fails_drops_everything_and_says_so(key_fn: Any, caplog: pytest.LogCaptureFixture) -> None:
    get_user = _reader()

    @AsyncLRUInvalidator(get_user, key_fn=key_fn)
    async def update_user(user_id: int) -> str:
        USERS[1] = "eve"
        return "done"

    await get_user(1)
    with caplog.at_level(logging.WARNING, "agent_cache"):
        assert await update_user(1) == "done"
    assert await get_user(1) == ["eve"]
    assert "it drops the whole resource" in caplog.text


async def _with_a_default(user_id: int, fields: str = "all") -> str:
    return fields


async def _any(*user_id: int) -> int:
    return len(user_id)


@pytest.mark.parametrize("read", [_with_a_default, _any])
def test_what_cannot_be_found_is_refused_at_decoration(read: Any) -> None:
    """A default is no way out: ``get_user(1, "name")`` would stay."""
    cached = AsyncTTL()(read)
    with pytest.raises(ConfigurationError, match="clear_all=True"):

        @AsyncTTLInvalidator(cached)
        async def update_user(user_id: int, data: str) -> None: ...


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: AsyncLRUInvalidator(_any), "cached_fn"),
        (lambda: AsyncLRUInvalidator(AgentCache("a")(_any)), "cached_fn"),
        (lambda: AsyncLRUInvalidator(_reader(), skip_args=-1), "skip_args"),
        (lambda: AsyncLRUInvalidator(_reader(), key_fn=3), "key_fn"),  # type: ignore[arg-type]
        (lambda: AsyncLRUInvalidator(_reader(), clear_all=True, key_fn=lambda a, k: (a, k)), "key_fn"),
        (lambda: AsyncLRUInvalidator(_reader(), skip_args=2)(_user_only), "skip_args"),
        (lambda: AsyncLRUInvalidator(_reader(), skip_args=1)(_user_only), "key_fn"),
        (lambda: AsyncLRUInvalidator(_reader())(3), "tool"),  # type: ignore[type-var]
    ],
)
def test_bad_input_is_refused_at_once(make: Any, parameter: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert refused.value.parameter == parameter


async def _user_only(user_id: int) -> None: ...
