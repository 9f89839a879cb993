"""cache_errors: an error that is an answer is raised again, equal and new, for as long as its class or its source says."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    UnstorableResultError,
    get_metrics,
)
from agent_cache.codecs import Failure, LastingCodec, codec_for
from agent_cache.engine import loads
from agent_cache.freshness import retry_after
from tests.freshness.conftest import Seen, Source, Store


class NotFound(Exception):  # noqa: N818 - a name as applications have them
    def __init__(self, what: str, *, near: list[str] | None = None) -> None:
        super().__init__(f"no {what}")
        self.what = what
        self.near = near or []


class Gone(NotFound):
    pass


def reader(source: Source, **how: Any) -> Any:
    @AgentCache("user:{user}", ttl=100, cache_errors={NotFound: 30, LookupError: timedelta(seconds=5)}, **how)
    async def get_user(user: str) -> list[int]:
        return source.answer()

    return get_user


@AgentCacheInvalidator("user:{user}")
async def add_user(user: str) -> None:
    pass


async def test_a_listed_error_is_raised_again_equal_and_new(store: Store, source: Source, seen: Seen) -> None:
    get_user = reader(source)
    source.fails = NotFound("u1", near=["u2"])
    caught: list[NotFound] = []
    for _ in range(3):
        with pytest.raises(NotFound, match="no u1") as one:
            await get_user("u1")
        caught.append(one.value)
    assert source.asked == 1
    assert [type(error) for error in caught] == [NotFound] * 3
    assert [(error.args, error.what, error.near) for error in caught] == [(("no u1",), "u1", ["u2"])] * 3
    assert len({id(error) for error in caught}) == 3
    caught[1].near.append("mine")
    with pytest.raises(NotFound) as again:
        await get_user("u1")
    assert again.value.near == ["u2"], "everybody has a copy of his own"
    assert seen.last == ("hit", "negative")
    assert seen.events[-1].failed
    assert "error" in (await get_user.explain("u1")).reason
    await store.advance(31)
    source.fails = None
    assert await get_user("u1") == [2]
    assert get_metrics()["negative_hits"] == 3


async def test_a_write_drops_an_error_too(store: Store, source: Source) -> None:
    get_user = reader(source)
    source.fails = NotFound("u1")
    with pytest.raises(NotFound):
        await get_user("u1")
    await add_user("u1")
    source.fails = None
    assert await get_user("u1") == [2]


async def test_a_def_tool_keeps_errors_too(store: Store, source: Source) -> None:
    @AgentCache("user:{user}", ttl=100, cache_errors={NotFound: 30})
    def get_user(user: str) -> list[int]:
        return source.answer()

    source.fails = NotFound("u1")
    for _ in range(3):
        with pytest.raises(NotFound):
            get_user("u1")
    assert source.asked == 1


@pytest.mark.parametrize("error", [Gone("u1"), KeyError("u1"), ValueError("u1"), OSError("away")])
async def test_only_the_very_classes_are_kept(memory: Store, source: Source, error: Exception) -> None:
    get_user = reader(source)
    source.fails = error
    for _ in range(2):
        with pytest.raises(type(error)):
            await get_user("u1")
    assert source.asked == 2


async def test_what_cannot_be_kept_faithfully_is_refused_and_counted(memory: Store, source: Source) -> None:
    get_user = reader(source)
    error = NotFound("u1")
    error.client = object()  # type: ignore[attr-defined]
    source.fails = error
    for _ in range(2):
        with pytest.raises(NotFound) as raised:
            await get_user("u1")
        assert raised.value is error
    assert get_metrics()["unstorable"] == 2


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise ValueError("no words")

    __str__ = __repr__


async def test_an_error_that_cannot_even_be_shown_passes_through(memory: Store) -> None:
    @AgentCache("cart", cache_errors={UnspeakableError: 30})
    async def get_cart() -> None:
        raise UnspeakableError

    def ttl(_result: object) -> float:
        raise UnspeakableError

    @AgentCache("cart", ttl=ttl)
    async def get_other() -> int:
        return 1

    for _ in range(2):
        with pytest.raises(UnspeakableError):
            await get_cart()
        assert await get_other() == 1


async def test_a_listed_error_is_an_answer_and_no_reason_for_a_stale_one(store: Store, source: Source) -> None:
    @AgentCache("user:{user}", ttl=10, stale_if_error=100, cache_errors={NotFound: 30})
    async def get_user(user: str) -> list[int]:
        return source.answer()

    assert await get_user("u1") == [1]
    await store.advance(15)
    source.fails = NotFound("u1")
    for _ in range(2):
        with pytest.raises(NotFound):
            await get_user("u1")
    assert source.asked == 2


async def test_the_source_says_how_long(store: Store, source: Source) -> None:
    get_user = reader(source)
    error = NotFound("u1")
    error.retry_after = 60  # type: ignore[attr-defined]
    source.fails = error
    with pytest.raises(NotFound):
        await get_user("u1")
    await store.advance(45)
    with pytest.raises(NotFound):
        await get_user("u1")
    assert source.asked == 1
    await store.advance(16)
    with pytest.raises(NotFound):
        await get_user("u1")
    assert source.asked == 2


async def test_the_loop_detector_sees_a_stored_error_as_that_error(memory: Store, source: Source) -> None:
    get_user = reader(source)
    source.fails = NotFound("u1")
    async with AgentCacheSession(max_tool_repeats=3):
        for _ in range(3):
            with pytest.raises(NotFound):
                await get_user("u1")
        with pytest.raises(AgentLoopDetectedError):
            await get_user("u1")
    assert source.asked == 1


# -- the stored form -------------------------------------------------------------------------------------------------------


class Slotted(Exception):  # noqa: N818
    __slots__ = ("code",)

    def __init__(self, code: object) -> None:
        super().__init__("slotted")
        self.code = code


class Picky(Exception):  # noqa: N818
    """Its constructor takes something else than its arguments, and has an effect."""

    made = 0

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        Picky.made += 1


@dataclass
class Record(Exception):  # noqa: N818
    code: int


CODEC = LastingCodec(codec_for(Any), [NotFound, KeyError, FileNotFoundError, Slotted, Picky, Record])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(values, max_size=3), st.dictionaries(st.text(min_size=1), values, max_size=3))
def test_arguments_and_attributes_come_back_as_they_were(args: list[Any], state: dict[str, Any]) -> None:
    error = KeyError(*args)
    error.__dict__.update(state)
    kept = CODEC.thaw_payload(CODEC.freeze_error(error, 1_000_000).payload())
    assert isinstance(kept, Failure)
    again = kept.error()
    assert (type(again), again.args, vars(again)) == (KeyError, error.args, state)
    assert str(again) == str(error)


def test_no_constructor_runs() -> None:
    kept = CODEC.freeze_error(Picky(404, "nothing"), 1_000)
    before = Picky.made
    again = kept.error()
    assert isinstance(again, Picky)
    assert (again.status, again.args, Picky.made) == (404, ("404: nothing",), before)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "x.txt"),
        Slotted("x"),
        KeyError(object()),
        KeyError(lambda: None),
    ],
)
def test_what_its_arguments_do_not_tell_is_refused(error: Exception) -> None:
    with pytest.raises(UnstorableResultError):
        CODEC.freeze_error(error, 1_000)


def test_notes_come_along_and_causes_do_not() -> None:
    error = KeyError("x")
    error.add_note("a note")
    error.__cause__ = ValueError("before")
    again = CODEC.freeze_error(error, 10_000).error()
    assert again.__notes__ == ["a note"]
    assert again.__cause__ is None


def test_data_names_no_class_that_the_decorator_does_not() -> None:
    payload = CODEC.freeze_error(KeyError("x"), 1_000).payload()
    with pytest.raises(UnstorableResultError, match="codec_error"):
        LastingCodec(codec_for(Any), [NotFound]).thaw_payload(payload)
    with pytest.raises(UnstorableResultError):
        codec_for(Any).thaw_payload(payload)
    damaged = payload[:-1] + bytes([payload[-1] ^ 1])
    with pytest.raises(UnstorableResultError):
        CODEC.thaw_payload(damaged)


# -- Retry-After -------------------------------------------------------------------------------------------------------------


class Answered(Exception):  # noqa: N818
    def __init__(self, headers: Any, of: str = "response") -> None:
        super().__init__()
        if of == "response":
            self.response = type("Response", (), {"headers": headers})()
        else:
            self.headers = headers


NOW = 1_800_000_000.0
LATER = email.utils.formatdate(NOW + 90, usegmt=True)
SENT = email.utils.formatdate(NOW + 60, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"Retry-After": b"7"}, 7.0),
        ({"Retry-After": 7}, 7.0),
        ({"Retry-After": LATER}, 90.0),
        ({"Retry-After": LATER, "Date": SENT}, 30.0),
        ({"Retry-After": SENT, "Date": LATER}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({}, None),
        (None, None),
        ("Retry-After: 3", None),
    ],
)
@pytest.mark.parametrize("of", ["response", "error"])
def test_headers_say_when_to_ask_again(headers: Any, expected: float | None, of: str) -> None:
    assert retry_after(Answered(headers, of), lambda: NOW) == expected


def test_a_date_without_a_zone_is_one_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for text in (time.asctime(time.gmtime(NOW + 90)), LATER.replace("GMT", "-0000")):
            assert retry_after(Answered({"Retry-After": text}), lambda: NOW) == 90.0
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_what_a_source_asks_for_is_not_shortened_by_jitter(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "_chance", Certain())
    asked: list[int] = []

    @AgentCache("rate", ttl=100, jitter=0.5, cache_errors={KeyError: 60, LookupError: 60})
    async def rate(asks: bool) -> None:
        asked.append(1)
        error = LookupError("later") if asks else KeyError("later")
        if asks:
            error.retry_after = 60  # type: ignore[attr-defined]
        raise error

    for asks, times in ((True, 1), (False, 2)):
        asked.clear()
        for _ in range(2):
            with pytest.raises(LookupError):
                await rate(asks)
            memory.clock.advance(59)
        assert len(asked) == times


class Certain:
    """No chance about it."""

    def random(self) -> float:
        return 0.999


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (3, 3.0),
        (2.5, 2.5),
        (timedelta(minutes=1), 60.0),
        (True, None),
        ("3", None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
    ],
)
def test_an_attribute_says_when_to_ask_again(said: object, expected: float | None) -> None:
    error = ValueError()
    error.retry_after = said  # type: ignore[attr-defined]
    assert retry_after(error, lambda: NOW) == expected


def test_a_property_that_raises_says_nothing() -> None:
    class Bad(Exception):  # noqa: N818
        @property
        def retry_after(self) -> float:
            raise RuntimeError

    assert retry_after(Bad(), lambda: NOW) is None
