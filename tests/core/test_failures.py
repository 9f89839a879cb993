"""The cache never breaks a tool, and a failing backend leaves nothing stale."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    BackendError,
    CallEvent,
    MemoryBackend,
    configure,
    get_metrics,
)
from tests.core.conftest import Faulty


class Broken:
    """A backend that can do nothing."""

    in_process = False

    @property
    def sync(self) -> Broken:
        return self

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise BackendError("out of reach")

    lookup = fill = begin = end = move = drop_chain = _fail


async def test_async_tools_work_over_a_backend_that_can_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    configure(backend=Broken())  # type: ignore[arg-type]

    @AgentCache("cart")
    async def get(n: int) -> int:
        return n

    @AgentCacheInvalidator("cart")
    async def put(n: int) -> int:
        return -n

    async with AgentCacheSession(loop_detection=False):
        assert [await get(n) for n in (1, 1, 2)] == [1, 1, 2]
        assert await put(5) == -5
        assert not await get.explain(1)
    metrics = get_metrics()
    assert metrics["backend_errors"] == 4
    assert metrics["bypasses"] == 3
    assert len([r for r in caplog.records if "backend failed" in r.getMessage()]) == 1


def test_sync_tools_work_over_a_backend_that_can_do_nothing() -> None:
    configure(backend=Broken())  # type: ignore[arg-type]

    @AgentCache("cart", scope="session")
    def get(n: int) -> int:
        return n

    @AgentCacheInvalidator("cart")
    def put(n: int) -> int:
        return -n

    with AgentCacheSession():
        assert get(1) == get(1) == 1
        assert put(5) == -5
    assert get_metrics()["backend_errors"] == 3


async def test_a_tools_own_errors_pass_through_over_a_broken_backend() -> None:
    configure(backend=Broken())  # type: ignore[arg-type]

    @AgentCache("cart")
    async def get() -> int:
        raise LookupError("mine")

    @AgentCacheInvalidator("cart")
    async def put() -> int:
        raise LookupError("mine too")

    with pytest.raises(LookupError, match="mine"):
        await get()
    with pytest.raises(LookupError, match="mine too"):
        await put()


async def test_one_load_for_concurrent_callers_even_without_a_backend() -> None:
    configure(backend=Broken())  # type: ignore[arg-type]
    runs = 0

    @AgentCache("cart")
    async def get() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    await asyncio.gather(*(get() for _ in range(100)))
    # others may write what nobody hears of here: a load is shared only by those who came before it began
    assert runs == 2


async def test_a_fill_that_fails_is_only_not_kept() -> None:
    configure(backend=Faulty("fill"))

    @AgentCache("cart")
    async def get() -> list[int]:
        return [1]

    assert await get() == await get() == [1]
    assert get_metrics()["backend_errors"] == 2


async def test_a_write_whose_window_could_not_be_opened_leaves_nothing_stale() -> None:
    backend = Faulty()
    configure(backend=backend)
    value = 0

    @AgentCache("cart")
    async def get() -> int:
        return value

    @AgentCacheInvalidator("cart")
    async def put(new: int) -> None:
        nonlocal value
        value = new
        backend.down.clear()  # it is there again before the write ends

    await get()
    backend.down = {"begin"}
    await put(1)
    assert await get() == 1


async def test_a_write_whose_window_could_not_be_closed_leaves_nothing_stale() -> None:
    backend = Faulty("end")
    configure(backend=backend)
    value = 0

    @AgentCache("cart")
    async def get() -> int:
        return value

    @AgentCacheInvalidator("cart")
    async def put(new: int) -> None:
        nonlocal value
        value = new

    assert await get() == 0
    await put(1)
    backend.down.clear()
    assert await get() == 1
    assert await get() == 1


async def test_refuse_writes_refuses_them_while_the_backend_is_out_of_reach() -> None:
    configure(backend=Broken(), on_unavailable="refuse_writes")  # type: ignore[arg-type]
    ran = []

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        ran.append(1)

    with pytest.raises(BackendError):
        await put()
    assert ran == []


async def test_a_write_cancelled_while_its_window_opens_closes_it() -> None:
    opening, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Faulty):
        async def begin(self, tags: Sequence[Any], writer: str) -> Any:
            window = await super().begin(tags, writer)
            opening.set()
            await go_on.wait()
            return window

    backend = Slow()
    configure(backend=backend)
    ran = []

    @AgentCache("cart")
    async def get() -> int:
        return 1

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        ran.append(1)

    task = asyncio.create_task(put())
    await opening.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == []
    assert "end" in backend.calls
    assert (await get.explain()).status != "blocked"


async def test_a_write_cancelled_while_its_window_closes_closes_it() -> None:
    closing, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Faulty):
        async def end(self, *args: Any, **kwargs: Any) -> None:
            closing.set()
            await go_on.wait()
            await super().end(*args, **kwargs)

    configure(backend=Slow())

    @AgentCache("cart")
    async def get() -> int:
        return 1

    @AgentCacheInvalidator("cart")
    async def put() -> None: ...

    task = asyncio.create_task(put())
    await closing.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await get.explain()).status == "miss"


async def test_a_stored_value_that_can_no_longer_be_read_is_a_miss() -> None:
    class Moody:
        broken = False

        def encode(self, value: list[int]) -> bytes:
            return bytes(value)

        def decode(self, payload: bytes) -> list[int]:
            if self.broken:
                raise ValueError("no longer")
            return list(payload)

    codec = Moody()

    @AgentCache("cart", codec=codec)
    async def get() -> list[int]:
        return [1, 2]

    for _ in range(3):
        assert await get() == [1, 2]
    codec.broken = True
    for _ in range(3):
        assert await get() == [1, 2]


@pytest.mark.parametrize(
    "amount",
    [Decimal("1E+30"), Decimal("1E+400"), Decimal("sNaN"), Decimal("NaN"), float("inf"), 10**5000],
    ids=["beyond precision", "beyond float", "signaling nan", "nan", "inf", "long int"],
)
async def test_any_number_in_a_template_is_taken(amount: Any) -> None:
    @AgentCache("price:{amount}")
    async def get(amount: Any) -> str:
        return "read"

    @AgentCacheInvalidator("price:{amount}")
    async def put(amount: Any) -> str:
        return "written"

    assert await get(amount) == "read"
    assert await put(amount) == "written"


def _endless() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


class _Rude:
    def __agent_cache_key__(self) -> object:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


@pytest.mark.parametrize("make", [_endless, _deep, _Rude, lambda: open, lambda: {object(): 1}, lambda: 10**5000])
async def test_any_argument_is_taken(make: Any) -> None:
    @AgentCache("cart")
    async def get(what: Any) -> str:
        return "read"

    @AgentCacheInvalidator("cart")
    async def put(what: Any) -> str:
        return "written"

    argument = make()
    async with AgentCacheSession():
        assert await get(argument) == "read"
        assert await put(argument) == "written"


async def test_a_result_over_the_backends_limit_is_returned_and_not_called_stored() -> None:
    seen: list[Any] = []

    class Observer:
        def on_event(self, event: object) -> None:
            seen.append(event)

    configure(backend=MemoryBackend(max_bytes=2_000), observers=[Observer()])

    @AgentCache("cart")
    async def get() -> str:
        return "x" * 5_000

    assert await get() == "x" * 5_000
    (event,) = seen
    assert isinstance(event, CallEvent)
    assert event.stored is False


async def test_observers_that_raise_are_counted_logged_once_and_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    class Bad:
        def on_event(self, event: object) -> None:
            raise RuntimeError("observer")

    class Good:
        def on_event(self, event: object) -> None:
            seen.append(event)

    configure(observers=[Bad(), Good()])

    @AgentCache("cart")
    async def get() -> int:
        return 1

    assert await get() == await get() == 1
    assert len(seen) == 2
    assert get_metrics()["observer_errors"] == 2
    assert len([r for r in caplog.records if "observer" in r.getMessage()]) == 1


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError("own")])
async def test_an_exception_passes_through_untouched_and_is_not_cached(error: BaseException) -> None:
    runs = 0

    @AgentCache("cart")
    async def get() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise error
        return runs

    with pytest.raises(type(error)) as caught:
        await get()
    assert caught.value is error or isinstance(error, asyncio.CancelledError)
    assert await get() == 2
    assert get_metrics()["load_failures"] == 1
