"""Writes that say too little, found in a recorded run and in calls from elsewhere."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    NoEffect,
    find_narrow_writes,
    no_cache,
    watched,
)
from agent_cache.audit import Seen, narrow_writes, overlap
from agent_cache.cassette import load


def read(key: str, outcome: object, at: int, *path: str) -> Seen:
    return Seen("read", f"read {key}", key, (path or (key,),), outcome, at, at)  # type: ignore[arg-type]


def write(at: int, *path: str, no_effect: bool = False, ended: int | None = None, kind: str = "write") -> Seen:
    ends = at if ended is None else ended
    return Seen(kind, f"{kind} {':'.join(path)}", None, (path,), None, at, ends, no_effect=no_effect)  # type: ignore[arg-type]


def test_what_counts_as_known() -> None:
    before, after = read("a", 1, 0, "cart", "42"), read("a", 2, 9, "cart", "42")
    for path in (("cart",), ("cart", "42"), ("cart", "42", "lines")):
        assert narrow_writes([before, write(5, *path), after]) == ()
    for wrong in (write(5, "cart", "43"), write(5, "cart", "42", no_effect=True), write(5, kind="other")):
        (found,) = narrow_writes([before, wrong, after])
        assert (found.read, found.resources, found.first, found.then) == ("read a", ("cart:42",), 0, 9)
        assert found.suspects == (wrong.call,)
    (nobody,) = narrow_writes([before, after])
    assert nobody.suspects == ()
    assert narrow_writes([before, write(5, "x"), read("a", 1, 9)]) == ()
    assert narrow_writes([before, read("a", None, 5), write(6, "cart"), after]) == ()
    assert narrow_writes([before, write(-2, "cart", ended=-1), after])[0].suspects == ()


def test_a_write_that_overlaps_in_time_is_in_between() -> None:
    before, after = read("a", 1, 3), read("a", 2, 9)
    for began, ended in ((0, 4), (0, 20), (5, 6), (8, 30)):
        assert narrow_writes([before, write(began, "a", ended=ended), write(4, "b"), after]) == ()


def test_each_change_is_looked_at_by_itself() -> None:
    calls = [read("a", 1, 0), write(1, "a"), read("a", 2, 2), write(3, "b"), read("a", 3, 4), read("a", 3, 5)]
    assert [found.suspects for found in narrow_writes(calls)] == [("write b",)]


_paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(tuple)
_calls = st.lists(
    st.tuples(st.sampled_from(["read", "write"]), _paths, st.integers(0, 2), st.integers(0, 30), st.integers(0, 9)),
    max_size=14,
)


@given(_calls)
def test_it_is_the_plain_definition(calls: list[tuple[str, tuple[str, ...], int, int, int]]) -> None:
    seen = [Seen(k, f"{k}{i}", p, (p,), o, b, b + d) for i, (k, p, o, b, d) in enumerate(calls)]  # type: ignore[arg-type]
    ordered = sorted(seen, key=lambda call: call.began)
    expected = []
    for i, then in enumerate(ordered):
        earlier = [c for c in ordered[:i] if c.kind == then.kind == "read" and c.key == then.key]
        if not earlier or earlier[-1].outcome == then.outcome:
            continue
        first = earlier[-1]
        between = [w for w in ordered if w.kind == "write" and w.ended > first.began and w.began < then.ended]
        if not any(overlap(w.resources[0], then.resources[0]) for w in between):
            expected.append((then.call, tuple(w.call for w in between)))
    assert [(found.read, found.suspects) for found in narrow_writes(seen)] == expected


def test_a_recorded_run_shows_its_narrow_write(tmp_path: Path) -> None:
    carts = {"u1": 0, "u2": 0}
    clock = [0]

    @AgentCache("cart:{user_id}")
    def get_cart(user_id: str) -> int:
        return carts[user_id]

    @AgentCache("totals")
    def totals() -> int:
        return sum(carts.values())

    @AgentCache("now", poll=True)
    def now() -> int:
        clock[0] += 1
        return clock[0]

    @AgentCacheInvalidator("cart:{user_id}")
    def add(user_id: str) -> None:
        carts[user_id] += 1

    @AgentCacheInvalidator("totals")
    def refuse() -> None:
        carts["u2"] += 1
        raise NoEffect("it says")

    @watched
    def sweep() -> None:
        carts["u1"] = 0

    with AgentCacheSession(record=tmp_path / "c"), no_cache():
        get_cart("u1"), totals(), now()
        add("u1")
        get_cart("u1"), totals(), now()
        sweep()
        get_cart("u1")
        get_cart("u2")
        get_cart.invalidate("u2")
        carts["u2"] += 1
        get_cart("u2")
    found = find_narrow_writes(tmp_path / "c")
    assert [(each.read, each.suspects) for each in found] == [
        ("totals()", ('add(user_id="u1")',)),
        ('get_cart(user_id="u1")', ("sweep()",)),
    ]
    with AgentCacheSession(record=tmp_path / "c"), no_cache():
        totals()
        try:
            refuse()
        except NoEffect:
            pass
        totals()
    assert [each.suspects for each in find_narrow_writes(tmp_path / "c")] == [("refuse()",)]


def test_a_write_that_its_result_names_is_recorded_as_it_turned_out(tmp_path: Path) -> None:
    @AgentCacheInvalidator("users:{result[id]}")
    def create(name: str) -> dict[str, int]:
        return {"id": 7}

    with AgentCacheSession(record=tmp_path / "c"):
        create("ann")
    (call,) = load(tmp_path / "c").calls
    assert call.resources == ("users:7",)
