"""revalidate: a cheap check turns an expired answer fresh again without a load; a write beats that too."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, ExpiredEntry, Validator, get_metrics
from agent_cache.codecs import LastingCodec, Marked, codec_for
from tests.freshness.conftest import Quiet, Seen, Source, Store


class Page:
    """A source with a version of its own."""

    def __init__(self) -> None:
        self.version: Any = 1
        self.loads = self.checks = 0
        self.fails: Exception | None = None

    def load(self) -> dict[str, Any]:
        self.loads += 1
        return {"etag": self.version, "loads": self.loads}

    def current(self, _: Any = None) -> Any:
        self.checks += 1
        if self.fails is not None:
            raise self.fails
        return self.version

    async def current_async(self, arguments: Any) -> Any:
        await asyncio.sleep(0)
        return self.current(arguments)

    def holds(self, entry: ExpiredEntry) -> bool:
        return bool(entry.value["etag"] == self.current())

    async def holds_async(self, entry: ExpiredEntry) -> bool:
        await asyncio.sleep(0)
        return self.holds(entry)


@pytest.fixture
def page() -> Page:
    return Page()


def validators(page: Page) -> dict[str, Any]:
    return {
        "check": page.holds,
        "async check": page.holds_async,
        "version": Validator(version=page.current),
        "async version": Validator(version=page.current_async),
    }


def reader(page: Page, revalidate: Any, **how: Any) -> Any:
    @AgentCache("page:{url}", ttl=10, revalidate=revalidate, **how)
    async def get_page(url: str) -> dict[str, Any]:
        return page.load()

    return get_page


@AgentCacheInvalidator("page:{url}")
async def put_page(url: str) -> None:
    pass


@pytest.mark.parametrize("kind", ["check", "async check", "version", "async version"])
async def test_what_still_holds_is_fresh_again_without_a_load(store: Store, page: Page, kind: str, seen: Seen) -> None:
    get_page = reader(page, validators(page)[kind])
    first = await get_page("/a")
    await store.advance(11)
    assert "validator" in (await get_page.explain("/a")).reason
    assert await get_page("/a") == first
    assert seen.last == ("revalidated", None)
    checks = page.checks
    assert await get_page("/a") == first
    assert seen.last == ("hit", None)
    assert (page.loads, page.checks) == (1, checks)
    await store.advance(11)
    page.version = 2
    assert await get_page("/a") == {"etag": 2, "loads": 2}
    assert get_metrics()["revalidated"] == 1


async def test_a_def_tool_has_validators_too(store: Store, page: Page) -> None:
    @AgentCache("page:{url}", ttl=10, revalidate=Validator(version=page.current))
    def get_page(url: str) -> dict[str, Any]:
        return page.load()

    first = get_page("/a")
    await store.advance(11)
    assert get_page("/a") == first
    assert page.loads == 1


async def test_a_write_drops_what_a_validator_would_have_kept(store: Store, page: Page) -> None:
    get_page = reader(page, page.holds)
    await get_page("/a")
    await store.advance(11)
    await put_page("/a")
    assert (await get_page("/a"))["loads"] == 2


async def test_a_write_during_the_check_is_not_undone_by_it(store: Store, page: Page) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def holds(entry: ExpiredEntry) -> bool:
        began.set()
        await go.wait()
        return True

    get_page = reader(page, holds)
    await get_page("/a")
    await store.advance(11)
    caller = asyncio.create_task(get_page("/a"))
    await began.wait()
    await put_page("/a")
    go.set()
    await caller
    assert (await get_page("/a"))["loads"] == 2
    assert get_metrics()["fenced_out"] == 1


async def test_a_version_that_changed_while_it_was_loaded_is_found_out(memory: Store, page: Page) -> None:
    """It is taken before the load: what changes during one is seen as a change the next time."""

    @AgentCache("page:{url}", ttl=10, revalidate=Validator(version=page.current))
    async def get_page(url: str) -> dict[str, Any]:
        found = page.load()
        if page.loads == 1:
            page.version = 2
        return found

    assert (await get_page("/a"))["etag"] == 1
    await memory.advance(11)
    assert (await get_page("/a"))["etag"] == 2


@pytest.mark.parametrize("kind", ["check", "version"])
async def test_a_validator_that_fails_is_counted_told_once_and_the_tool_is_run(
    memory: Store, page: Page, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    get_page = reader(page, validators(page)[kind])
    await get_page("/a")
    page.fails = OSError("away")
    with caplog.at_level(logging.WARNING, "agent_cache"):
        for _ in range(2):
            await memory.advance(11)
            await get_page("/a")
    assert page.loads == 3
    assert get_metrics()["revalidation_failures"] >= 2
    assert len([r for r in caplog.records if "its validator failed" in r.getMessage()]) == 1


@pytest.mark.parametrize("said", [1, "yes", None])
async def test_only_true_and_false_are_verdicts(memory: Store, page: Page, said: Any) -> None:
    get_page = reader(page, lambda entry: said)
    await get_page("/a")
    await memory.advance(11)
    assert (await get_page("/a"))["loads"] == 2
    assert get_metrics()["revalidation_failures"] == 1


@pytest.mark.parametrize("version", [None, object()])
async def test_a_version_that_cannot_be_told_proves_nothing(memory: Store, page: Page, version: Any) -> None:
    page.version = 1
    get_page = reader(page, Validator(version=lambda arguments: version))
    await get_page("/a")
    await memory.advance(11)
    assert (await get_page("/a"))["loads"] == 2


async def test_a_validator_is_asked_no_longer_than_it_says(store: Store, page: Page) -> None:
    get_page = reader(page, Validator(page.holds, keep=20), stale_if_error=100)
    await get_page("/a")
    await store.advance(35)
    assert (await get_page("/a"))["loads"] == 2
    assert page.checks == 0


async def test_it_sees_the_call_and_a_value_of_its_own(memory: Store, page: Page) -> None:
    entries: list[ExpiredEntry] = []

    def holds(entry: ExpiredEntry) -> bool:
        entries.append(entry)
        entry.value["etag"] = "changed by the validator"
        return True

    @AgentCache("page:{url}", ttl=10, revalidate=holds)
    async def get_page(url: str, lang: str = "en") -> dict[str, Any]:
        return page.load()

    first = await get_page("/a")
    await memory.advance(12)
    assert await get_page("/a") == first
    assert (dict(entries[0].arguments), round(entries[0].age)) == ({"url": "/a", "lang": "en"}, 12)


async def test_a_crowd_asks_the_validator_once(store: Store, page: Page) -> None:
    get_page = reader(page, page.holds_async)
    await get_page("/a")
    await store.advance(11)
    assert len({str(each) for each in await asyncio.gather(*(get_page("/a") for _ in range(30)))}) == 1
    assert (page.loads, page.checks) == (1, 1)


async def test_in_the_background_it_is_asked_first_too(store: Store, page: Page, quiet: Quiet) -> None:
    get_page = reader(page, page.holds, stale_while_revalidate=60)
    first = await get_page("/a")
    await store.advance(15)
    assert await get_page("/a") == first
    await quiet()
    assert (page.loads, page.checks) == (1, 1)
    assert await get_page("/a") == first
    figures = get_metrics()
    assert (figures["stale_served"], figures["revalidated"]) == (1, 1)


async def test_a_failing_load_after_a_changed_version_may_be_stale(store: Store, source: Source) -> None:
    @AgentCache("page:{url}", ttl=10, stale_if_error=60, revalidate=lambda entry: False)
    async def get_page(url: str) -> list[int]:
        return source.answer()

    assert await get_page("/a") == [1]
    await store.advance(11)
    source.fails = OSError("away")
    assert await get_page("/a") == [1]


def test_a_marked_value_is_what_it_was() -> None:
    codec = LastingCodec(codec_for(Any), [], lasting=True)
    for value in ([1, {"a": None}], "text", 1.5, None):
        kept = codec.thaw_payload(codec.marked(codec.freeze(value), b"m" * 20).payload())
        assert isinstance(kept, Marked)
        assert (kept.fresh(), kept.mark) == (value, b"m" * 20)
        assert kept.fingerprint() == codec.freeze(value).fingerprint()
