"""Batch loaders: who is loaded together, and what each caller gets whatever the loader does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from agent_cache import AgentCacheSession, AsyncCache, BatchLoadError, no_cache
from agent_cache.functions.batches import _Batch
from agent_cache.testing import run_virtual


class Loader:
    """Doubles keys; ``calls`` are the batches."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[list[Any]] = []
        self._answer = answer or (lambda keys: {key: f"{key!r}!" for key in keys})

    async def load(self, keys: list[Any]) -> Any:
        self.calls.append(list(keys))
        await asyncio.sleep(0.001)
        return self._answer(keys)


async def _all(cache: AsyncCache, loader: Any, keys: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*(cache.get(key, batch_loader=loader) for key in keys), return_exceptions=True)


async def test_concurrent_misses_are_one_call_on_every_backend(backend: Any) -> None:
    cache, loader = AsyncCache(backend=backend, batch_window_ms=500, max_batch_size=2), Loader()
    assert await _all(cache, loader.load, ["a", "b", "a"]) == ["'a'!", "'b'!", "'a'!"]
    assert await _all(cache, loader.load, ["b", "c"]) == ["'b'!", "'c'!"]
    assert loader.calls == [["a", "b"], ["c"]]
    assert cache.get_metrics()["batches"] == 2


def test_the_window_and_the_size() -> None:
    async def main() -> None:
        cache, loader = AsyncCache(batch_window_ms=5, max_batch_size=3), Loader()
        loop = asyncio.get_running_loop()

        async def later(key: int, ms: float) -> float:
            await asyncio.sleep(ms / 1000)
            await cache.get(key, batch_loader=loader.load)
            return round(loop.time() * 1000, 3)

        # 1 and 2 fall into the window that 1 opens; 3 opens the next, which 5 fills
        ends = await asyncio.gather(later(1, 0), later(2, 4), later(3, 6), later(4, 7), later(5, 8), later(6, 9))
        assert loader.calls == [[1, 2], [3, 4, 5], [6]]
        assert ends == [6, 6, 9, 9, 9, 15]

    run_virtual(main)


def test_without_a_window_it_is_those_of_one_round() -> None:
    async def main() -> None:
        cache, loader = AsyncCache(batch_window_ms=0), Loader()
        await _all(cache, loader.load, range(5))
        assert loader.calls == [[0, 1, 2, 3, 4]]

    run_virtual(main)


def test_batches_are_kept_apart_by_loader_and_session() -> None:
    async def main() -> None:
        cache, one, other = AsyncCache(), Loader(), Loader()

        async def within(key: int) -> None:
            async with AgentCacheSession():
                await cache.get(key, batch_loader=one.load)

        await asyncio.gather(_all(cache, one.load, [1, 2]), _all(cache, other.load, [3, 4]), within(5), within(6))
        assert sorted(one.calls) == [[1, 2], [5], [6]]
        assert other.calls == [[3, 4]]

    run_virtual(main)


@pytest.mark.parametrize(
    "answer",
    [
        lambda keys: [f"{key!r}!" for key in keys],
        lambda keys: tuple(f"{key!r}!" for key in keys),
        lambda keys: {key: f"{key!r}!" for key in reversed(keys)},
        lambda keys: {key: f"{key!r}!" for key in [*keys, "more", 99]},
    ],
    ids=["list", "tuple", "dict", "extra keys"],
)
def test_lists_are_aligned_and_dicts_by_key(answer: Any) -> None:
    async def main() -> None:
        cache = AsyncCache()
        assert await _all(cache, Loader(answer).load, ["a", 1, (2, "b")]) == ["'a'!", "1!", "(2, 'b')!"]
        assert await cache.get("more") is None  # nobody asked for it: no fence was held for it

    run_virtual(main)


def test_a_loader_may_be_def() -> None:
    async def main() -> None:
        assert await _all(AsyncCache(), lambda keys: [key + 1 for key in keys], [1, 2]) == [2, 3]

    run_virtual(main)


def test_a_missing_key_is_the_error_of_its_callers_only() -> None:
    async def main() -> None:
        cache = AsyncCache()
        answers = await _all(cache, Loader(lambda keys: {"a": 1, "c": None}).load, ["a", "b", "c", "b"])
        assert (answers[0], answers[2]) == (1, None)
        for failed in (answers[1], answers[3]):
            assert isinstance(failed, BatchLoadError)
            assert failed.key == "b"
            assert "no value for this key: 'b'" in str(failed)
        assert await cache.get("b", lambda: "later") == "later"  # an error is not cached
        assert await cache.get("a") == 1

    run_virtual(main)


@pytest.mark.parametrize(
    "answer",
    [lambda keys: [1], lambda keys: [1, 2, 3], lambda keys: None, lambda keys: "ab", lambda keys: {1, 2}, iter],
)
def test_an_answer_that_cannot_be_told_apart_is_nobody_s(answer: Any) -> None:
    """Two values for three keys: which one is missing? A guess would be somebody else's answer."""

    async def main() -> None:
        cache = AsyncCache()
        answers = await _all(cache, Loader(answer).load, ["a", "b"])
        assert all(isinstance(each, BatchLoadError) and each.key is None for each in answers), answers
        assert await cache.get_many(["a", "b"]) == {}

    run_virtual(main)


def test_a_loader_that_raises_raises_to_all_and_caches_nothing() -> None:
    async def main() -> None:
        cache = AsyncCache()
        answers = await _all(cache, Loader(lambda keys: 1 / 0).load, ["a", "b"])
        assert [type(each) for each in answers] == [ZeroDivisionError] * 2
        assert await _all(cache, Loader().load, ["a"]) == ["'a'!"]

    run_virtual(main)


def test_a_value_that_is_an_exception_is_raised_to_those_who_asked_for_it() -> None:
    async def main() -> None:
        cache = AsyncCache()
        answers = await _all(cache, Loader(lambda keys: [KeyError("gone"), 2]).load, ["a", "b"])
        assert isinstance(answers[0], KeyError)
        assert answers[1] == 2
        assert await cache.get_many(["a", "b"]) == {"b": 2}

    run_virtual(main)


def test_a_loader_that_cancels_itself_cancels_nobody() -> None:
    async def main() -> None:
        async def load(keys: list[str]) -> Any:
            raise asyncio.CancelledError

        answers = await _all(AsyncCache(), load, ["a", "b"])
        assert [type(each) for each in answers] == [BatchLoadError] * 2

    run_virtual(main)


def test_cancelling_one_caller_harms_no_other() -> None:
    for when in (0.0, 0.004, 0.0055):  # before the window closes, and while the loader runs

        async def main(when: float = when) -> None:
            cache, loader = AsyncCache(), Loader()
            calls = [asyncio.create_task(cache.get(key, batch_loader=loader.load)) for key in "aab"]
            await asyncio.sleep(when)
            calls[0].cancel()
            calls[2].cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError)
            assert answers[1] == "'a'!"
            assert loader.calls == [["a"] if when < 0.005 else ["a", "b"]]

        run_virtual(main)


def test_when_all_have_left_the_loader_is_cancelled_or_never_called() -> None:
    async def main() -> None:
        for when, called in ((0.001, 0), (0.0055, 1)):
            cache, ended, begun = AsyncCache(), [], []

            async def load(keys: list[str], ended: Any = ended, begun: Any = begun) -> Any:
                begun.append(keys)
                try:
                    await asyncio.sleep(1)
                finally:
                    ended.append("cancelled")

            calls = [asyncio.create_task(cache.get(key, batch_loader=load)) for key in "ab"]
            await asyncio.sleep(when)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0.01)
            assert (len(begun), len(ended)) == (called, called)
            assert await _all(cache, Loader().load, ["a"]) == ["'a'!"]

    run_virtual(main)


def test_keys_that_a_dict_cannot_tell_apart_are_told_apart() -> None:
    async def main() -> None:
        by_key = Loader(lambda keys: {1: "one"})
        answers = await _all(AsyncCache(), by_key.load, [1, True, 1.0])
        assert answers[0] == "one"
        assert [type(each) for each in answers[1:]] == [BatchLoadError] * 2
        in_order = Loader(lambda keys: [repr(key) for key in keys])
        assert await _all(AsyncCache(), in_order.load, [1, True, [1], [True]]) == ["1", "True", "[1]", "[True]"]

    run_virtual(main)


def test_a_loader_that_asks_the_cache_itself_does_not_wait_for_its_own_batch() -> None:
    async def main() -> None:
        cache = AsyncCache()
        wholes = Loader()

        async def load(keys: list[int]) -> list[str]:
            # each key needs the other one: both are being loaded right here
            needed = [await cache.get(1 - key, lambda key=key: f"{1 - key} alone") for key in keys]
            return [f"{key} with {other}" for key, other in zip(keys, needed, strict=True)]

        assert await _all(cache, load, [0, 1]) == ["0 with 1 alone", "1 with 0 alone"]

        async def across(keys: list[str]) -> list[Any]:
            return [await cache.get(f"{key}'", batch_loader=back) for key in keys]

        async def back(keys: list[str]) -> list[Any]:
            return [await cache.get(key[:-1], wholes.load.__func__ and (lambda: "inner")) for key in keys]

        assert await _all(cache, across, ["x", "y"]) == ["inner", "inner"]

    run_virtual(main)


def test_a_load_in_a_batch_is_fenced() -> None:
    async def main() -> None:
        cache = AsyncCache()
        loader = Loader(lambda keys: dict.fromkeys(keys, "old"))
        loading = asyncio.create_task(cache.get_many(["a", "b", "c"], batch_loader=loader.load))
        await asyncio.sleep(0.0055)
        cache.set("a", "new")
        cache.delete("b")
        assert await loading == {"a": "old", "b": "old", "c": "old"}
        assert await cache.get_many(["a", "b", "c"]) == {"a": "new", "c": "old"}

    run_virtual(main)


def test_many_and_warmup_go_in_batches() -> None:
    async def main() -> None:
        cache, loader = AsyncCache(max_batch_size=4), Loader()
        assert len(await cache.get_many(range(10), batch_loader=loader.load)) == 10
        assert [len(keys) for keys in loader.calls] == [4, 4, 2]
        loader.calls.clear()
        failing = Loader(lambda keys: {key: key for key in keys if key % 5})
        failed = await cache.warmup(range(5, 20), batch_loader=failing.load, concurrency=1)
        assert list(failed) == [10, 15]
        assert {type(error) for error in failed.values()} == {BatchLoadError}
        assert sorted(key for keys in failing.calls for key in keys) == list(range(10, 20))

    run_virtual(main)


def test_no_cache_loads_in_batches_too() -> None:
    async def main() -> None:
        cache, loader = AsyncCache(), Loader()
        with no_cache():
            await _all(cache, loader.load, "ab")
        assert loader.calls == [["a", "b"]]

    run_virtual(main)


def test_a_loop_that_ends_in_the_middle_of_a_window_leaves_nothing_behind() -> None:
    cache, loader = AsyncCache(batch_window_ms=60_000), Loader()

    async def leave() -> None:
        task = asyncio.create_task(cache.get("a", batch_loader=loader.load))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(leave())
    cache._batches.window = 0
    assert asyncio.run(_all(cache, loader.load, "ab")) == ["'a'!", "'b'!"]
    assert loader.calls == [["a", "b"]]
    assert cache._batches._open == {}


def test_batches_leave_nothing_to_the_collector_of_cycles() -> None:
    async def main() -> None:
        cache, loader = AsyncCache(batch_window_ms=0), Loader(lambda keys: 1 / 0)
        for _ in range(2):
            await asyncio.gather(*(_quietly(cache, loader, key) for key in "ab"))
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await asyncio.gather(*(_quietly(cache, loader, key) for key in "ab"))
            batches = [each for each in gc.get_objects() if type(each) is _Batch]
        finally:
            gc.enable()
        assert batches == []

    run_virtual(main)


async def _quietly(cache: AsyncCache, loader: Loader, key: str) -> None:
    try:
        await cache.get(key, batch_loader=loader.load)
    except ZeroDivisionError:
        pass


@pytest.mark.parametrize("answer", [asyncio.CancelledError(), KeyboardInterrupt(), StopIteration(1)])
@pytest.mark.parametrize("form", ["list", "dict"])
async def test_an_error_that_would_stop_the_caller_is_told_as_one_of_the_batch(
    answer: BaseException, form: str
) -> None:
    def load(keys: list[str]) -> Any:
        answers = [answer if key == "a" else key for key in keys]
        return answers if form == "list" else dict(zip(keys, answers, strict=True))

    failed, fine = await _all(AsyncCache(), load, ["a", "b"])
    assert isinstance(failed, BatchLoadError)
    assert failed.__cause__ is answer
    assert type(answer).__name__ in str(failed)
    assert fine == "b"


async def test_a_loader_that_raises_stop_iteration_cancels_nobody() -> None:
    def load(keys: list[str]) -> Any:
        return [next(iter(())) for _ in keys]

    for failed in await _all(AsyncCache(), load, ["a", "b"]):
        assert isinstance(failed, BatchLoadError)
        assert isinstance(failed.__cause__, StopIteration)
