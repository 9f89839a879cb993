"""Versions in memory: what is shared between entries, what a call has of its own, and what may be forgotten.

``MemoryStore`` keeps one snapshot for all calls that read the same paths, and a record of a call's own tags only once one of
them has moved. Each rule is tested by itself, and all of them against a store that forgets nothing and shares nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.base import Blocked, Found, Lookup, Missing, NewEntry
from agent_cache.backends.memory import MemoryStore
from agent_cache.backends.memory import store as memory_module
from agent_cache.codecs import codec_for
from agent_cache.tags import CallTags, Chain, Path, Tag, bucket_path, call_tags, is_call_tag, shared_tags, write_tags
from agent_cache.testing import FakeClock

CODEC = codec_for(Any)
PATHS: tuple[Path, ...] = (("cart", "1"), ("cart", "2"), ("shop",))
SETTLE, LEASE = 5.0, 30.0


def key_of(number: int, chain: Chain = ()) -> bytes:
    return number.to_bytes(4, "big") + repr(chain).encode()


def tags_of(number: int, path: Path = PATHS[0], chain: Chain = ()) -> CallTags:
    """Call ``number`` of one tool; it reads ``path``."""
    return call_tags(shared_tags([path], "tool", chain), own_path(number))


def own_path(number: int) -> Path:
    return bucket_path("tool", number.to_bytes(4, "big"))


def by_hand(number: int) -> tuple[Tag, ...]:
    """What ``invalidate`` of one call moves."""
    return write_tags([own_path(number)], ())


def entry(number: int, value: object = "value", chain: Chain = (), ttl: float | None = None) -> NewEntry:
    return NewEntry(key_of(number, chain), CODEC.freeze(value), ttl, 0.0, "tool", None, chain)


class Calls:
    """A store, and calls of one tool asked of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store: MemoryStore = MemoryBackend(clock=self.clock, settle=SETTLE, write_lease=LEASE).sync

    def ask(self, number: int, path: Path = PATHS[0], chain: Chain = (), tags: Sequence[Tag] | None = None) -> Lookup:
        asked = tags_of(number, path, chain) if tags is None else tags
        return self.store.lookup(key_of(number, chain), asked, CODEC)

    def is_hit(self, number: int, path: Path = PATHS[0], chain: Chain = ()) -> bool:
        return isinstance(self.ask(number, path, chain), Found)

    def is_blocked(self, number: int) -> bool:
        return isinstance(self.ask(number), Blocked)

    def token(self, number: int, path: Path = PATHS[0], chain: Chain = ()) -> Any:
        return self.store.token(tags_of(number, path, chain))

    def fill(self, number: int, path: Path = PATHS[0], chain: Chain = ()) -> bool:
        return self.store.fill(self.token(number, path, chain), entry(number, chain=chain))

    def drop(self, number: int) -> None:
        self.store.move(by_hand(number), "by hand")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def few_own(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for so few calls' own tags that some are forgotten at every turn."""
    monkeypatch.setattr(memory_module, "_MAX_OWN", 4)
    return 4


# -- a call's own tags ------------------------------------------------------------------------------------------------------


def test_dropping_one_call_leaves_those_that_read_the_same(calls: Calls) -> None:
    for number in (1, 2):
        assert calls.fill(number)
    calls.drop(1)
    assert (calls.is_hit(1), calls.is_hit(2)) == (False, True)


def test_a_load_from_before_the_drop_is_not_kept_a_later_one_is(calls: Calls) -> None:
    early = calls.token(1)
    other = calls.token(2)
    calls.drop(1)
    late = calls.token(1)
    assert not calls.store.fill(early, entry(1))
    assert calls.store.fill(other, entry(2))
    assert calls.store.fill(late, entry(1))
    assert calls.is_hit(1)


def test_every_drop_counts_not_only_the_first(calls: Calls) -> None:
    for _ in range(3):
        early = calls.token(1)
        calls.drop(1)
        assert not calls.store.fill(early, entry(1))
        assert calls.fill(1)
        assert calls.is_hit(1)
    calls.drop(1)
    assert not calls.is_hit(1)


def test_while_one_call_is_written_it_is_blocked_and_no_other(calls: Calls) -> None:
    assert calls.fill(1)
    before = calls.token(1)
    window = calls.store.begin(by_hand(1), "write")
    during = calls.token(1)
    assert calls.is_blocked(1)
    assert not calls.is_blocked(2)
    assert not calls.store.fill(before, entry(1))
    assert not calls.store.fill(during, entry(1))
    calls.store.end(window, unknown=False, no_effect=False)
    assert not calls.store.fill(during, entry(1))
    assert not calls.is_hit(1)
    assert calls.fill(1)


def test_a_write_to_one_call_without_effect_gives_its_entry_back_and_no_load(calls: Calls) -> None:
    assert calls.fill(1)
    before = calls.token(1)
    window = calls.store.begin(by_hand(1), "write")
    during = calls.token(1)
    calls.store.end(window, unknown=False, no_effect=True)
    assert calls.is_hit(1)
    assert not calls.store.fill(before, entry(1))
    assert not calls.store.fill(during, entry(1))
    assert calls.fill(1)


@pytest.mark.parametrize("effects", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("first_ends_first", [True, False])
def test_of_two_writes_to_one_call_one_with_an_effect_drops_it(
    calls: Calls, effects: tuple[bool, bool], first_ends_first: bool
) -> None:
    assert calls.fill(1)
    windows = [calls.store.begin(by_hand(1), "write") for _ in range(2)]
    ends = list(zip(windows, effects, strict=True))
    for window, has_effect in ends if first_ends_first else ends[::-1]:
        calls.store.end(window, unknown=False, no_effect=not has_effect)
    if any(effects) or first_ends_first:  # a restore is compare-and-set: what somebody moved meanwhile stays moved
        assert not calls.is_hit(1)
    else:
        assert calls.is_hit(1)


def test_a_call_whose_write_ended_unknown_is_not_cached_until_it_has_settled(calls: Calls) -> None:
    calls.store.end(calls.store.begin(by_hand(1), "write"), unknown=True, no_effect=False)
    token = calls.token(1)
    assert calls.is_blocked(1)
    assert not calls.is_blocked(2)
    assert not calls.store.fill(token, entry(1))
    calls.clock.advance(SETTLE)
    assert calls.store.fill(token, entry(1))


def test_a_write_to_one_call_that_outlives_its_lease_still_drops_what_was_stored_meanwhile(calls: Calls) -> None:
    window = calls.store.begin(by_hand(1), "write")
    calls.clock.advance(LEASE)
    assert calls.fill(1)
    calls.store.end(window, unknown=False, no_effect=False)
    assert not calls.is_hit(1)


def test_a_drop_in_all_scopes_reaches_a_scoped_call_and_a_scoped_one_no_other_scope(calls: Calls) -> None:
    mine, other = ("user=a",), ("user=b",)
    for chain in (mine, other, ()):
        assert calls.fill(1, chain=chain)
    calls.store.move([("any", mine, own_path(1))], "refresh")
    assert [calls.is_hit(1, chain=chain) for chain in (mine, other, ())] == [False, True, True]
    calls.drop(1)
    assert [calls.is_hit(1, chain=chain) for chain in (mine, other, ())] == [False, False, False]


# -- own tags that were forgotten -------------------------------------------------------------------------------------------


def test_no_drop_is_lost_when_there_is_no_room_for_more_own_tags(calls: Calls, few_own: int) -> None:
    for number in range(4 * few_own):
        assert calls.fill(number)
        calls.drop(number)
        assert not calls.is_hit(number), number


def test_no_load_survives_a_drop_for_which_there_was_no_room(calls: Calls, few_own: int) -> None:
    for number in range(4 * few_own):
        token = calls.token(number)
        calls.drop(number)
        assert not calls.store.fill(token, entry(number)), number


def test_no_window_is_missed_when_there_is_no_room_for_more_own_tags(calls: Calls, few_own: int) -> None:
    for number in range(4 * few_own):
        window = calls.store.begin(by_hand(number), "write")
        assert calls.is_blocked(number), number
        assert not calls.fill(number)
        calls.store.end(window, unknown=False, no_effect=False)


def test_a_load_from_before_a_forgotten_drop_is_not_kept(calls: Calls, few_own: int) -> None:
    token = calls.token(0)
    assert calls.fill(0)
    for number in range(4 * few_own):
        calls.drop(number)
    assert not calls.store.fill(token, entry(0))
    assert not calls.is_hit(0)
    assert calls.fill(0)
    assert calls.is_hit(0)


@pytest.mark.usefixtures("few_own")
def test_open_and_settling_writes_are_not_forgotten(calls: Calls, few_own: int) -> None:
    running = calls.store.begin(by_hand(100), "write")
    calls.store.end(calls.store.begin(by_hand(101), "write"), unknown=True, no_effect=False)
    for number in range(4 * few_own):
        calls.drop(number)
    assert calls.is_blocked(100)
    assert calls.is_blocked(101)
    calls.store.end(running, unknown=False, no_effect=False)
    assert calls.fill(100)


@pytest.mark.parametrize("others", range(1, 12))
def test_a_forgotten_write_that_outlived_its_lease_still_drops_at_its_end(
    calls: Calls, few_own: int, others: int
) -> None:
    assert few_own < 12
    window = calls.store.begin(by_hand(100), "write")
    calls.clock.advance(LEASE)
    for number in range(others):
        calls.drop(number)
    token = calls.token(100)
    assert calls.fill(100)
    calls.store.end(window, unknown=False, no_effect=False)
    assert not calls.is_hit(100)
    assert not calls.store.fill(token, entry(100))


def test_forgetting_has_a_bound(calls: Calls, few_own: int) -> None:
    for number in range(100):
        calls.drop(number)
        assert len(calls.store._own) <= 2 * few_own


# -- shared tags ------------------------------------------------------------------------------------------------------------


def test_calls_that_read_the_same_share_what_they_were_loaded_under(calls: Calls) -> None:
    assert calls.token(1).base is calls.token(2).base
    assert calls.token(1).base is not calls.token(1, PATHS[1]).base


def test_a_write_to_something_else_leaves_entries_and_loads_alone(calls: Calls) -> None:
    assert calls.fill(1)
    token = calls.token(2)
    calls.store.move(write_tags([PATHS[1]], ()), "write")
    assert calls.is_hit(1)
    assert calls.store.fill(token, entry(2))
    calls.store.move(write_tags([PATHS[0]], ()), "write")
    assert not calls.is_hit(1)
    assert not calls.is_hit(2)
    assert not calls.store.fill(token, entry(2))


def test_what_was_found_current_is_looked_at_again_after_every_write(calls: Calls) -> None:
    """Shared versions are compared once per generation of the store, not once for ever."""
    assert calls.fill(1)
    for _ in range(2):
        assert calls.is_hit(1)
        calls.store.move(write_tags([PATHS[2]], ()), "write")
        assert calls.is_hit(1)
    calls.store.move(write_tags([PATHS[0]], ()), "write")
    for _ in range(2):
        assert not calls.is_hit(1)


def test_what_was_found_quiet_is_looked_at_again_once_somebody_writes(calls: Calls) -> None:
    store, written = calls.store, write_tags([PATHS[0]], ())
    for unknown in (False, True):
        found = calls.ask(1)
        assert isinstance(found, Missing)
        assert isinstance(calls.ask(3), Missing)  # quiet, as was found just now
        window = store.begin(written, "writer")
        assert isinstance(calls.ask(3), Blocked)
        assert not store.fill(found.token, entry(1))
        assert not store.fill(store.token(tags_of(2)), entry(2))  # under the versions of now, and blocked
        store.end(window, unknown=unknown, no_effect=False)
        assert isinstance(calls.ask(3), Blocked if unknown else Missing)
        assert store.fill(store.token(tags_of(2)), entry(2)) is not unknown
    calls.clock.advance(SETTLE)
    assert isinstance(calls.ask(3), Missing)
    store.begin(written, "one that never says how it went")
    assert isinstance(calls.ask(3), Blocked)
    calls.clock.advance(LEASE)
    assert isinstance(calls.ask(3), Missing)
    store.begin(written, "another")
    assert isinstance(calls.ask(3), Blocked)


def test_fences_of_shared_tags_stay_moved_after_a_write_without_effect(calls: Calls) -> None:
    assert calls.fill(1)
    before = calls.token(2)
    assert calls.store.fill(before, entry(2))  # it held, and was found to hold
    calls.store.end(calls.store.begin(write_tags([PATHS[0]], ()), "write"), unknown=False, no_effect=True)
    assert calls.is_hit(1)
    for _ in range(2):
        assert not calls.store.fill(before, entry(2))
    after = calls.token(2)
    assert after != before
    assert calls.store.fill(after, entry(2))


def test_a_write_without_effect_is_no_news_to_those_who_compare_stamps(calls: Calls) -> None:
    before = calls.token(1).stamp
    calls.store.end(calls.store.begin(write_tags([PATHS[0]], ()), "write"), unknown=False, no_effect=True)
    assert calls.token(1).stamp == before
    assert calls.fill(1)
    found = calls.ask(1)
    assert isinstance(found, Found)
    assert found.stamp == before
    calls.store.move(write_tags([PATHS[0]], ()), "write")
    assert calls.token(1).stamp != before


def test_a_drop_of_the_call_is_news_to_those_who_compare_stamps(calls: Calls) -> None:
    before = calls.token(1).stamp
    calls.drop(1)
    assert calls.token(1).stamp != before


def test_tokens_are_equal_exactly_when_nothing_was_written_between(calls: Calls) -> None:
    first = calls.token(1)
    calls.store.move(write_tags([PATHS[1]], ()), "write")
    assert calls.token(1) == first
    assert hash(calls.token(1)) == hash(first)
    calls.drop(1)
    second = calls.token(1)
    assert second != first
    calls.store.end(calls.store.begin(by_hand(1), "write"), unknown=False, no_effect=True)
    assert calls.token(1) != second


def test_clear_ends_entries_and_loads_and_lets_new_ones_in(calls: Calls) -> None:
    assert calls.fill(1)
    token = calls.token(2)
    calls.store.clear()
    assert not calls.is_hit(1)
    for _ in range(2):
        assert not calls.store.fill(token, entry(2))
    assert calls.fill(2)
    assert calls.is_hit(2)


def test_a_child_process_starts_empty_and_keeps_no_load_of_its_parent(calls: Calls) -> None:
    assert calls.fill(1)
    token = calls.token(2)
    calls.store._start_empty()  # what a fork does in the child
    assert not calls.is_hit(1)
    for number in (3, 4, 5):
        assert calls.fill(number)  # versions begin anew, and are not taken for the parent's
    assert not calls.store.fill(token, entry(2))


# -- one tag, asked for in two ways -------------------------------------------------------------------------------------------


def plain(number: int) -> tuple[Tag, ...]:
    """The same tags as a plain tuple, as a backend's user or a tier may give them."""
    return tuple(tags_of(number))


@pytest.mark.parametrize("filled_plain", [True, False])
@pytest.mark.parametrize("asked_plain", [True, False])
@pytest.mark.parametrize("moved_before", [True, False])
def test_plain_tags_and_a_calls_tags_are_the_same_tags(
    calls: Calls, filled_plain: bool, asked_plain: bool, moved_before: bool
) -> None:
    if moved_before:
        calls.drop(1)
    filled = plain(1) if filled_plain else tags_of(1)
    asked = plain(1) if asked_plain else tags_of(1)
    assert calls.store.fill(calls.store.token(filled), entry(1))
    assert isinstance(calls.ask(1, tags=asked), Found)
    token = calls.store.token(filled)
    window = calls.store.begin(by_hand(1), "write")
    assert isinstance(calls.ask(1, tags=asked), Blocked)
    calls.store.end(window, unknown=False, no_effect=False)
    assert isinstance(calls.ask(1, tags=asked), Missing)
    assert not calls.store.fill(token, entry(1))
    assert calls.store.fill(calls.store.token(filled), entry(1))
    assert isinstance(calls.ask(1, tags=asked), Found)
    calls.drop(1)
    assert isinstance(calls.ask(1, tags=asked), Missing)


# -- something is written while we look ---------------------------------------------------------------------------------------


class Interrupted(tuple[Any, ...]):  # noqa: SLOT001 - a tuple cannot have slots of its own
    """Does something when its last element is about to be looked at, once: a collector or a signal handler would."""

    then: Any = None

    def __iter__(self) -> Any:
        for place, item in enumerate(tuple.__iter__(self)):
            if place == len(self) - 1 and self.then is not None:
                then, self.then = self.then, None
                then()
            yield item


@pytest.mark.parametrize("part", ["versions", "fences"])
def test_a_write_in_the_middle_of_a_look_is_not_taken_for_seen(calls: Calls, part: str) -> None:
    path = ("cart", "1")
    assert calls.fill(1, path)
    token = calls.token(2, path)
    calls.store.cool()
    parts = Interrupted(getattr(token.base, part))
    parts.then = lambda: calls.store.end(
        calls.store.begin([("all", (), ())], "write"), unknown=False, no_effect=part == "fences"
    )
    setattr(token.base, part, parts)
    if part == "versions":
        calls.is_hit(1, path)  # it may say either: both came at once
        assert not calls.is_hit(1, path)
    else:
        calls.store.fill(token, entry(2))
    assert not calls.store.fill(token, entry(2))


def test_a_hit_names_the_generation_from_before_it_was_found_current(calls: Calls) -> None:
    path = ("cart", "1")
    assert calls.fill(1, path)
    calls.store.cool()
    base = calls.token(1, path).base
    parts = Interrupted(base.versions)
    parts.then = lambda: calls.store.move(write_tags([path], ()), "write")
    base.versions = parts
    base.seen = None
    found = calls.ask(1, path)
    if isinstance(found, Found):
        assert found.generation is not calls.store.generation
    assert not calls.is_hit(1, path)


# -- all of it against a store that forgets and shares nothing ------------------------------------------------------------------


class Plain:
    """The rules with a record for each tag, kept for ever, and a token that holds every version and fence."""

    def __init__(self) -> None:
        self.last = 0
        self.version: dict[Tag, int] = {}
        self.fence: dict[Tag, int] = {}
        self.until: dict[Tag, dict[int, float]] = {}
        self.settles: dict[Tag, float] = {}
        self.entries: dict[int, dict[Tag, int]] = {}
        self.undone: dict[tuple[Tag, int], int] = {}
        self.epoch = 0

    def token(self, tags: Sequence[Tag]) -> tuple[int, dict[Tag, int], dict[Tag, int]]:
        return self.epoch, {t: self.version.get(t, 0) for t in tags}, {t: self.fence.get(t, 0) for t in tags}

    def is_current(self, number: int) -> bool:
        held = self.entries.get(number)
        return held is not None and all(self.version.get(tag, 0) == version for tag, version in held.items())

    def may_be_served(self, number: int) -> bool:
        """An own tag's versions are compared by order: what was loaded inside a write that outlived its lease is kept
        if that write had no effect. A write without effect is no write, so it is right; by equality it would be lost."""
        held = self.entries.get(number)
        return held is not None and all(
            self.version.get(tag, 0) == self._counting(tag, version) for tag, version in held.items()
        )

    def _counting(self, tag: Tag, version: int) -> int:
        while is_call_tag(tag) and (tag, version) in self.undone:
            version = self.undone[tag, version]
        return version

    def is_blocked(self, tags: Sequence[Tag], now: float) -> bool:
        return any(
            self.settles.get(tag, 0.0) > now or any(end > now for end in self.until.get(tag, {}).values())
            for tag in tags
        )

    def fill(self, number: int, token: tuple[int, dict[Tag, int], dict[Tag, int]], now: float) -> bool:
        epoch, versions, fences = token
        if (
            epoch != self.epoch
            or self.token(list(versions))[1:] != (versions, fences)
            or self.is_blocked([*versions], now)
        ):
            return False
        self.entries[number] = versions
        return True

    def move(self, tags: Sequence[Tag]) -> int:
        self.last += 1
        for tag in tags:
            self.version[tag] = self.fence[tag] = self.last
        return self.last

    def begin(self, window: int, tags: Sequence[Tag], ends: float) -> tuple[int, dict[Tag, int]]:
        before = {tag: self.version.get(tag, 0) for tag in tags}
        for tag in tags:
            self.until.setdefault(tag, {})[window] = ends
        return self.move(tags), before

    def end(self, window: int, mine: int, before: dict[Tag, int], now: float, how: str) -> None:
        restored = [tag for tag in before if how == "no_effect" and self.version[tag] == mine]
        self.move([*before])
        for tag in before:
            del self.until[tag][window]
            if how == "unknown":
                self.settles[tag] = max(self.settles.get(tag, 0.0), now + SETTLE)
        for tag in restored:
            self.version[tag] = self.undone[tag, mine] = before[tag]

    def clear(self) -> None:
        self.epoch += 1
        self.entries.clear()


@pytest.mark.parametrize("room", [4, 10_000], ids=["forgetting", "room for all"])
@pytest.mark.parametrize("seed", range(30))
def test_at_random_no_answer_is_older_than_that_of_a_plain_store(
    monkeypatch: pytest.MonkeyPatch, seed: int, room: int
) -> None:
    """With room for all the answers are the same; when own tags are forgotten, it may only know less."""
    monkeypatch.setattr(memory_module, "_MAX_OWN", room)
    rng = random.Random(seed)
    calls, model = Calls(), Plain()
    tokens: list[tuple[int, Any, Any]] = []
    windows: list[tuple[Any, int, int, dict[Tag, int]]] = []
    hits = fills = 0
    for step in range(250):
        number = rng.randrange(8)
        path = PATHS[number % len(PATHS)]
        tags = tags_of(number, path) if rng.random() < 0.7 else tuple(tags_of(number, path))
        written = by_hand(number) if rng.random() < 0.6 else write_tags([path], ())
        now = calls.clock()
        what = rng.choices(
            ["lookup", "token", "fill", "move", "begin", "end", "clear", "wait"], [30, 20, 30, 8, 8, 10, 1, 4]
        )[0]
        if what == "lookup":
            found = calls.store.lookup(key_of(number), tags, CODEC)
            if isinstance(found, Found):
                hits += 1
                assert model.may_be_served(number), (step, number)
            elif room > 4:
                assert not model.is_current(number), (step, number)
                assert isinstance(found, Blocked) == model.is_blocked(tags, now), (step, number)
            elif model.is_blocked(tags, now):
                assert isinstance(found, Blocked), (step, number)
        elif what == "token":
            tokens.append((number, calls.store.token(tags), model.token(tags)))
        elif what == "fill" and tokens:
            number, token, theirs = tokens.pop(rng.randrange(len(tokens)))
            kept = calls.store.fill(token, entry(number))
            fills += kept
            allowed = model.fill(number, theirs, now)
            assert allowed or not kept, (step, number)
            if room > 4:
                assert kept == allowed, (step, number)
        elif what == "move":
            calls.store.move(written, "move")
            model.move(written)
        elif what == "begin":
            window = calls.store.begin(written, "write")
            windows.append((window, step, *model.begin(step, written, now + LEASE)))
        elif what == "end" and windows:
            window, name, mine, before = windows.pop(rng.randrange(len(windows)))
            how = rng.choice(["effect", "unknown", "no_effect", "no_effect"])
            calls.store.end(window, unknown=how == "unknown", no_effect=how == "no_effect")
            model.end(name, mine, before, now, how)
        elif what == "clear":
            calls.store.clear()
            model.clear()
        elif what == "wait":
            calls.clock.advance(rng.choice([1.0, SETTLE, LEASE]))
    assert hits
    assert fills
