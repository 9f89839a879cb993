"""The pure detector: what is always found, what never is, and what it costs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import ConfigurationError, LoopEvent, LoopPolicy
from agent_cache.loops import CallTrack, LoopDetector, Outcome, ToolRule, checked_rule

HUGE = 10**9
POLL = ToolRule(poll=True)


class Feed:
    """A detector, asked before each call and told after it."""

    def __init__(self, policy: LoopPolicy | None = None) -> None:
        self.detector = LoopDetector(policy or LoopPolicy(max_execution_depth=HUGE))

    def track(self, key: Hashable, tool: str = "tool", rule: ToolRule = ToolRule()) -> CallTrack:  # noqa: B008 - frozen
        return self.detector.track(key, tool, lambda: ({"key": repr(key)}, None), rule)

    def call(
        self,
        key: Hashable,
        result: Hashable = "same",
        *,
        tool: str = "tool",
        error: str | None = None,
        stamp: Hashable = (),
        write: bool = False,
        rule: ToolRule = ToolRule(),  # noqa: B008 - frozen
    ) -> LoopEvent | None:
        track = self.track(key, tool, rule)
        found = self.detector.verdict(track)
        if found is not None:
            return found.event
        self.detector.saw(track)
        self.detector.outcome(track, Outcome((result, error), error=error, write=write), stamp)
        return None

    def first(self, calls: Any) -> LoopEvent | None:
        return next((event for each in calls if (event := self.call(*each)) is not None), None)


# -- always found ----------------------------------------------------------------------------------------------------------


def noise(kind: int, number: int) -> tuple[Any, ...]:
    """Other calls: new with a new answer, new with a known one, one that always changes, one that never does."""
    return [
        (("new", number), number),
        (("alike", number), "alike"),
        ("changing", number),
        ("still", "still"),
    ][kind]  # fmt: skip


@given(
    repeats=st.integers(1, 6),
    period=st.integers(1, 5),
    between=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5),
)
def test_a_cycle_is_found_whatever_is_interleaved(repeats: int, period: int, between: list[list[int]]) -> None:
    feed = Feed(LoopPolicy(max_tool_repeats=repeats, max_execution_depth=HUGE))
    numbers, gaps = itertools.count(), itertools.cycle(between)
    turns = 8 * repeats - 6  # the documented bound
    calls = [
        each
        for _ in range(turns)
        for member in range(period)
        for each in ((("member", member), member), *(noise(kind, next(numbers)) for kind in next(gaps)))
    ]
    event = feed.first(calls)
    assert event is not None
    assert event.kind != "depth"


@given(repeats=st.integers(1, 8), period=st.integers(1, 5), lead=st.integers(0, 7))
def test_a_bare_cycle_is_found_at_the_documented_turn(repeats: int, period: int, lead: int) -> None:
    policy = LoopPolicy(max_tool_repeats=repeats, max_execution_depth=HUGE)
    feed = Feed(policy)
    calls = [(("before", number), number) for number in range(lead)]
    calls += [(("member", step % period), step % period) for step in range(period * (repeats + 1) + 1)]
    event = feed.first(calls)
    assert event is not None
    turns = repeats if period == 1 else min(policy.cycle_turns, repeats)
    assert event.last_step <= lead + period * (turns + (turns < 3))
    assert event.kind in ("repeat", "alternation", "cycle")


@pytest.mark.parametrize("period", [2, 3, 4, 5])
def test_what_a_cycle_says(period: int) -> None:
    feed = Feed()
    event = feed.first([(step % period, step % period) for step in range(6 * period)])
    assert event is not None
    assert (event.kind, event.period, event.count) == ("alternation" if period == 2 else "cycle", period, 4)
    assert (event.first_step, event.last_step) == (1, 4 * period)
    assert [call.step for call in event.calls][-1] == 4 * period
    assert all(f"tool(key={member})" in event.hint for member in range(period))


def test_no_progress_is_found_in_a_circle_that_is_too_long_for_a_cycle() -> None:
    event = Feed().first([(step % 9, step % 9) for step in range(60)])
    assert event is not None
    assert (event.kind, event.count) == ("no_progress", 20)
    assert event.last_step == 38  # two rounds are allowed to look again


def test_the_same_error_under_changing_arguments() -> None:
    feed = Feed()
    for number in range(6):
        assert feed.call(number, error="no seats") is None
    event = feed.call(7, error="no seats")
    assert event is not None
    assert (event.kind, event.count, len(event.calls)) == ("error", 6, 6)
    assert "no seats" in event.hint
    assert event.calls[0].outcome == "no seats"


@pytest.mark.parametrize("cure", ["success", "another error", "a write"])
def test_a_run_of_errors_ends(cure: str) -> None:
    feed = Feed()
    for number in range(60):
        if number % 6 == 5:
            if cure == "success":
                assert feed.call(("fine", number), number) is None
            elif cure == "another error":
                assert feed.call(("other", number), error=f"other {number}") is None
            else:
                assert feed.call(("put", number), "done", tool="put", write=True) is None
            continue
        assert feed.call(number, error="no seats") is None


def test_an_attempt_after_something_was_learned_is_allowed() -> None:
    feed = Feed()
    for number in range(40):
        assert feed.call(("read", number), number, tool="read") is None
        assert feed.call(number, error="no seats") is None
    assert feed.call(41, error="no seats") is not None


def test_arguments_that_have_failed_already_count_twice() -> None:
    feed = Feed()
    steps = [feed.call(number % 2, error="no seats") for number in range(5)]
    assert [event and event.kind for event in steps] == [None, None, None, None, "error"]


# -- never found -----------------------------------------------------------------------------------------------------------


@given(
    keys=st.lists(st.integers(0, 4), max_size=120),
    errors=st.sets(st.integers(0, 4)),
    repeats=st.integers(1, 5),
)
def test_what_always_changes_is_never_a_loop(keys: list[int], errors: set[int], repeats: int) -> None:
    feed = Feed(LoopPolicy(max_tool_repeats=repeats, max_execution_depth=HUGE))
    last: dict[int, int] = {}
    for number, key in enumerate(keys):
        error = f"error {number}" if key in errors else None
        event = feed.call(key, number, error=error)
        # asked before the call, one that may pass only once is a loop the second time: nobody knows yet that it will change
        if repeats > 1 or key not in last:
            assert event is None
        last[key] = number


@given(keys=st.lists(st.integers(0, 4), max_size=80))
def test_the_budget_is_all_that_stops_what_always_changes(keys: list[int]) -> None:
    feed = Feed(LoopPolicy(max_execution_depth=30))
    events = [feed.call(key, number) for number, key in enumerate(keys)]
    assert {event.kind for event in events if event} <= {"depth"}
    assert [event is None for event in events[:30]] == [True] * min(30, len(events))
    assert all(event is not None for event in events[30:])


def test_a_write_to_what_is_read_is_progress() -> None:
    feed = Feed()
    for version in range(40):
        assert feed.call("read", stamp=version) is None


def test_an_unknown_stamp_counts_as_moved() -> None:
    feed = Feed()
    for _ in range(40):
        assert feed.call("read", stamp=None) is None


def test_an_outcome_that_cannot_be_told_counts_as_new() -> None:
    feed = Feed()
    for _ in range(40):
        track = feed.track("read")
        assert feed.detector.verdict(track) is None
        feed.detector.saw(track)
        feed.detector.outcome(track, Outcome(None), ())


def test_a_declared_poll_is_no_part_of_a_cycle_and_has_its_own_limit() -> None:
    feed = Feed()
    steps = [feed.call(name, rule=POLL) for _ in range(60) for name in ("a", "b")]
    event = next(event for event in steps if event)
    assert event.kind == "repeat"
    assert 100 <= steps.index(event) <= 101


def test_a_tool_may_have_a_limit_of_its_own() -> None:
    feed = Feed()
    patient, eager = ToolRule(max_tool_repeats=9), ToolRule(max_tool_repeats=2)
    assert [feed.call("p", rule=patient) is None for _ in range(10)] == [True] * 9 + [False]
    feed.detector.new_turn()
    assert [feed.call("e", rule=eager) is None for _ in range(3)] == [True] * 2 + [False]


# -- hits ------------------------------------------------------------------------------------------------------------------


@given(
    calls=st.lists(st.integers(0, 6), max_size=60),
    more=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    repeats=st.integers(1, 12),
    depth=st.integers(1, 80),
)
def test_nothing_trips_within_the_headroom(calls: list[int], more: list[int], repeats: int, depth: int) -> None:
    feed = Feed(LoopPolicy(max_tool_repeats=repeats, max_execution_depth=depth))
    for key in calls:
        feed.call(key)
    known = [key for key in more if feed.detector.known(key) is not None]
    room = feed.detector.headroom()
    for key in known[:room]:
        track = feed.track(key)
        assert feed.detector.verdict(track) is None
        feed.detector.saw(track)


@given(calls=st.lists(st.integers(0, 3), min_size=1, max_size=200), repeats=st.integers(1, 40))
def test_a_batch_of_hits_counts_as_one_by_one(calls: list[int], repeats: int) -> None:
    policy = LoopPolicy(max_tool_repeats=repeats, max_execution_depth=HUGE)
    single, batch = Feed(policy), Feed(policy)
    for feed in (single, batch):
        for key in range(4):
            feed.call(key, key)
    for key in calls:
        single.detector.saw(single.track(key))
    batch.detector.saw_all([batch.track(key) for key in calls])
    for key in range(4):
        one, other = single.track(key), batch.track(key)
        assert (one.count, one.units) == (other.count, other.units)
        assert (single.detector.verdict(one) is None) is (batch.detector.verdict(other) is None)
    assert single.detector.headroom() == batch.detector.headroom()


def test_a_hit_counts_in_full_whatever_was_written_elsewhere() -> None:
    feed = Feed()
    for number in range(5):
        feed.call(("put", number), "done", tool="put", write=True)
        track = feed.track("read")
        assert feed.detector.verdict(track) is None
        feed.detector.saw(track)
        feed.detector.outcome(track, Outcome("same"), "stamp", hit=True)
    assert feed.call("read") is not None


# -- memory ----------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_over_a_million_calls() -> None:
    feed = Feed(LoopPolicy(max_tool_repeats=HUGE, max_execution_depth=HUGE))
    sizes = []
    for part in range(4):
        for number in range(part * 1_250, part * 1_250 + 1_250):
            feed.call(number, number, tool=f"tool {number % 500}", error="no" if number % 3 else None)
            track = feed.track(number, f"tool {number % 500}")
            feed.detector.saw(track, 200)
            feed.detector.saw_all([track, feed.track(max(0, number - 1), "tool")] * 10)
        sizes.append(footprint(feed.detector))
    assert feed.detector.steps > 1_000_000
    assert sizes[-1] <= sizes[0] * 1.1


def footprint(root: object) -> int:
    """Bytes of everything the detector holds."""
    seen: set[int] = set()
    todo, total = [root], 0
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        if isinstance(each, dict):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple, set, frozenset)) or type(each).__name__ in ("deque", "OrderedDict"):
            todo += list(each)  # type: ignore[call-overload]
        todo += [
            getattr(each, name)
            for kind in type(each).__mro__
            for name in getattr(kind, "__slots__", ())
            if isinstance(name, str) and not name.startswith("__") and hasattr(each, name)
        ]
        todo += vars(each).values() if hasattr(each, "__dict__") else ()
    return total


def test_what_was_long_ago_is_forgotten() -> None:
    feed = Feed()
    for number in range(5):
        feed.call("once in a while")
        for other in range(600):
            feed.call((number, other), (number, other))
    assert feed.call("once in a while") is None


# -- what may be said --------------------------------------------------------------------------------------------------------


def test_the_thresholds_follow_the_first() -> None:
    policy = LoopPolicy(max_tool_repeats=8)
    assert (policy.cycle_turns, policy.error_repeats, policy.idle_calls, policy.poll_repeats) == (7, 9, 32, 80)
    chosen = LoopPolicy(max_cycle_turns=2, max_error_repeats=3, max_idle_calls=4, max_poll_repeats=6)
    assert (chosen.cycle_turns, chosen.error_repeats, chosen.idle_calls, chosen.poll_repeats) == (2, 3, 4, 6)


@pytest.mark.parametrize("name", ["max_tool_repeats", "max_execution_depth", "max_cycle_turns", "max_error_repeats"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "5"])
def test_a_threshold_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        LoopPolicy(**{name: value})


def test_the_policy_is_frozen() -> None:
    with pytest.raises(AttributeError):
        LoopPolicy().max_tool_repeats = 3  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [(), [], 3, [1], [""" """, 2]])
def test_a_loop_key_is_names_or_a_function(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="loop_key"):
        checked_rule(False, None, wrong)


def test_a_loop_key_leaves_free_text_out() -> None:
    by_name, by_function = checked_rule(False, None, ["path"]), checked_rule(False, None, lambda a: a["path"])
    for rule in (by_name, by_function):
        assert rule.same_by({"path": "a", "reason": "x"}) == rule.same_by({"path": "a", "reason": "y"})
        assert rule.same_by({"path": "a", "reason": "x"}) != rule.same_by({"path": "b", "reason": "x"})
