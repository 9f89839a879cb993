"""The referee of the litmus with processes: what it calls broken, what it excuses, what it lets pass."""

from __future__ import annotations

from typing import Any

from agent_cache.testing.processes.referee import ALL_CHECKS, Referee
from agent_cache.testing.processes.rollouts import World
from agent_cache.testing.processes.worker import kept

ENTITY = ["item:1"]


class Story:
    """What happens in one worker after another, in words as short as can be."""

    def __init__(self, checks: frozenset[str] = ALL_CHECKS) -> None:
        self.referee = Referee(checks)
        self._numbers = iter(range(1_000))

    def load(self) -> list[Any]:
        number = next(self._numbers)
        self.referee.load_begins(1, number, "read(1)@", "", ENTITY)
        sampled = list(self.referee.sample(number))
        self.referee.load_ends(number)
        return [number, "", sampled]

    def begin_write(self, worker: int = 2) -> int:
        number = next(self._numbers)
        self.referee.write_begins(worker, 0.0, number, ENTITY)
        self.referee.tool_enters(number)
        return number

    def write(self, how: str = "returned") -> None:
        number = self.begin_write()
        self.referee.commit(number, ENTITY)
        self.referee.tool_ends(number, heard=True)
        self.referee.write_ends(number, how, 3)

    def begin_read(self, session: str = "s1") -> int:
        number = next(self._numbers)
        self.referee.read_begins(3, 0.0, number, session, "read(1)@", "", ENTITY)
        return number

    def read(self, value: object, session: str = "s1") -> set[str]:
        return self.referee.read_ends(self.begin_read(session), value)


def test_what_is_current_is_right() -> None:
    story = Story()
    story.write()
    assert story.read(story.load()) == set()


def test_older_than_a_write_that_returned() -> None:
    story = Story()
    old = story.load()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2"}


def test_older_than_a_write_that_raised_is_c4() -> None:
    story = Story()
    old = story.load()
    story.write("raised")
    assert story.read(old) == {"C0", "C2", "C4"}


def test_what_returned_after_the_read_began_may_be_missed() -> None:
    story = Story()
    old = story.load()
    reading = story.begin_read()
    story.write()
    assert story.referee.read_ends(reading, old) == set()


def test_older_than_a_commit_is_c0() -> None:
    story = Story()
    old = story.load()
    story.referee.commit(story.begin_write(), ENTITY)
    assert story.read(old) == {"C0"}


def test_a_load_that_overlapped_a_write_is_c2_even_if_it_saw_it() -> None:
    story = Story()
    number = story.begin_write()
    story.referee.commit(number, ENTITY)
    overlapping = story.load()
    story.referee.tool_ends(number, heard=True)
    story.referee.write_ends(number, "returned", 3)
    assert story.read(overlapping) == {"C2"}


def test_what_the_tool_did_not_wait_for_bounds_nothing() -> None:
    """Of a cancelled write nobody knows whether its end was noted before its window was closed."""
    story = Story()
    number = story.begin_write()
    overlapping = story.load()
    story.referee.tool_ends(number, heard=False)
    story.referee.write_ends(number, "cancelled", 1)
    assert story.read(overlapping) == set()


def test_a_write_that_was_over_before_anything_of_it_was_noted_bounds_nothing() -> None:
    """Cancelled at once: its tags were moved while all that was said of it was still on its way."""
    story = Story()
    since = story.load()
    number = story.begin_write()
    story.referee.tool_ends(number, heard=False)
    story.referee.write_ends(number, "cancelled", 0)
    assert story.read(since) == set()


def test_nor_does_it_make_up_for_what_was_lost() -> None:
    story = Story()
    old, number = story.load(), story.begin_write()
    story.referee.commit(number, ENTITY)
    story.referee.write_ends(number, "returned", 2, undelivered=True)
    late = story.begin_write()
    story.referee.write_ends(late, "cancelled", 0)
    assert story.read(old) == set()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2"}


def test_a_write_that_never_ran_or_had_no_effect_is_none() -> None:
    story = Story()
    old = story.load()
    story.referee.write_begins(2, 0.0, 500, ENTITY)
    story.referee.write_ends(500, "cancelled", 0)
    number = story.begin_write()
    story.referee.tool_ends(number, heard=True)
    story.referee.write_ends(number, "no effect", 2)
    assert story.read(old) == set()


def test_a_session_does_not_go_back() -> None:
    story = Story()
    old = story.load()
    story.referee.commit(story.begin_write(), ENTITY)
    assert story.read(story.load(), "s1") == set()
    assert story.read(old, "s1") == {"C0", "C3"}
    assert story.read(old, "s2") == {"C0"}


def test_what_is_not_promised_is_counted_apart() -> None:
    story = Story(ALL_CHECKS - {"C0"})
    old = story.load()
    story.referee.commit(story.begin_write(), ENTITY)
    assert story.read(old) == set()
    assert story.referee.unpromised == {"C0": 1}
    assert not story.referee.violations


def test_another_ones_answer_and_made_up_values() -> None:
    story = Story()
    story.referee.load_begins(1, 900, "read(1)@u2", "u2", ENTITY)
    story.referee.sample(900)
    assert story.read([900, "u2", [0]]) == {"P3"}
    value = story.load()
    assert story.read([value[0], "", [7]]) == {"P2"}
    assert story.read("something") == {"P2"}


def test_from_the_death_of_a_writer_its_commit_counts() -> None:
    story = Story()
    old = story.load()
    story.referee.commit(story.begin_write(worker=9), ENTITY)
    (write,) = story.referee.died(9)
    story.referee.buried(write)
    assert story.read(old) == {"C0", "C4"}


def test_a_writer_that_died_without_its_marker_is_excused_until_the_next_write() -> None:
    story = Story()
    old = story.load()
    number = story.begin_write(worker=9)
    story.referee.markers_going(None)
    story.referee.markers_gone(None)
    story.referee.commit(number, ENTITY)
    assert story.read(old) == set()
    assert story.referee.excused == {"C0": 1}
    for write in story.referee.died(9):
        story.referee.buried(write)
    assert story.read(old) == set()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2", "C4"}


def test_without_its_marker_a_write_that_returned_still_counts() -> None:
    story = Story()
    old = story.load()
    story.referee.markers_going(None)
    story.write()
    story.referee.markers_gone(None)
    assert story.read(old) == {"C0", "C1", "C2"}


def test_without_windows_nobody_knows_of_a_writer_that_died() -> None:
    story = Story()
    story.referee.windows = False
    old = story.load()
    story.referee.commit(story.begin_write(worker=9), ENTITY)
    for write in story.referee.died(9):
        story.referee.buried(write)
    assert story.read(old) == set()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2", "C4"}


def test_what_the_store_could_not_be_told_is_excused_until_the_next_write() -> None:
    story = Story()
    old, number = story.load(), story.begin_write()
    story.referee.commit(number, ENTITY)
    story.referee.write_ends(number, "returned", 2, undelivered=True)
    assert story.read(old) == set()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2"}


def test_a_write_that_had_begun_before_says_nothing_of_what_was_lost_since() -> None:
    """The store may have heard of it before what was lost was loaded, and its caller of its end only after."""
    story = Story()
    earlier, number = story.begin_write(), story.begin_write()
    old = story.load()
    story.referee.commit(number, ENTITY)
    story.referee.tool_ends(number, heard=True)
    story.referee.write_ends(number, "returned", 3, undelivered=True)
    story.referee.write_ends(earlier, "raised", 1)
    assert story.read(old) == set()
    story.write()
    assert story.read(old) == {"C0", "C1", "C2"}


def test_the_failure_of_ones_own_load_only() -> None:
    story = Story()
    load = story.load()
    assert "long over" in str(story.referee.read_fails(story.begin_read(), load[0]))
    reading = story.begin_read()
    fresh = story.load()
    assert story.referee.read_fails(reading, fresh[0]) is None
    assert "another call" in str(story.referee.read_fails(story.begin_read(), 999))


# ------------------------------------------------------------------------------------ answers put together from others


class Whole(Story):
    """An answer put together from two entities."""

    entities = ("item:1", "item:2")
    parts = ("part(1)@", "part(2)@")

    def part(self, place: int) -> list[Any]:
        number = next(self._numbers)
        self.referee.load_begins(1, number, self.parts[place], "", [self.entities[place]])
        sampled = list(self.referee.sample(number))
        self.referee.load_ends(number)
        return [number, "", sampled]

    def read_whole(self, parts: list[Any], owner: str = "") -> set[str]:
        number = next(self._numbers)
        self.referee.read_begins(3, 0.0, number, "s1", "read(all)@", "", list(self.entities), self.parts)
        return self.referee.read_ends(number, [900, owner, parts])


def test_each_part_of_an_answer_is_judged() -> None:
    story = Whole()
    old, beside = story.part(0), story.part(1)
    assert story.read_whole([old, beside]) == set()
    story.write()
    assert story.read_whole([old, beside]) == {"C0", "C1", "C2"}
    assert story.read_whole([story.part(0), beside]) == set(), "what was not written may be from before"


def test_parts_of_another_answer_are_not_its_own() -> None:
    story = Whole()
    one, two = story.part(0), story.part(1)
    assert story.read_whole([two, one]) == {"P3"}
    assert story.read_whole([one, story.load()]) == {"P3"}
    assert story.read_whole([one, two], owner="u2") == {"P3"}
    assert story.read_whole([one]) == {"P2"}
    assert story.read_whole([one, [two[0], "", [7]]]) == {"P2"}


def test_the_failure_of_a_part_is_a_failure_of_the_whole() -> None:
    story = Whole()
    number = next(story._numbers)
    story.referee.read_begins(3, 0.0, number, "s1", "read(all)@", "", list(story.entities), story.parts)
    assert story.referee.read_fails(number, story.part(1)[0]) is None


# ------------------------------------------------------------------------------------------- worlds of a session's own


def _written(world: World, entity: int = 0) -> None:
    """Some write of it that does something in this state."""
    for argument in range(100):
        if world.write("change", [entity], argument) == "done":
            return


def test_what_its_own_world_was_when_it_began_is_right_and_older_is_not() -> None:
    world = World("start", 2)
    old = world.now([0, 1])
    before = world.floors([0, 1])
    _written(world)
    assert world.judge([0, 1], before, old) == set(), "written while it ran"
    assert world.judge([0, 1], world.floors([0, 1]), old) == {"C0"}
    world.heard()
    assert world.judge([0, 1], world.floors([0, 1]), old) == {"C0", "C1"}
    assert world.judge([0, 1], world.floors([0, 1]), world.now([0, 1])) == set()


def test_what_only_another_world_became_is_anothers() -> None:
    world, same, other = World("start", 1), World("start", 1), World("elsewhere", 1)
    assert world.now([0]) == same.now([0])
    assert world.judge([0], world.floors([0]), other.now([0])) == {"P3"}
    _written(same)
    assert world.judge([0], world.floors([0]), same.now([0])) == {"P3"}
    _written(world)
    assert world.now([0]) == same.now([0]), "the same writes from the same start"
    assert world.judge([0], world.floors([0]), "something") == {"P2"}


def test_calls_in_worlds_of_their_own_are_added_up() -> None:
    referee = Referee()
    for number in range(3):
        referee.own_begins(7, 0.0, number, "a read")
    referee.own_load_begins("read(1)")
    referee.own_read_ends(0, True, [], "")
    referee.own_read_ends(1, True, ["C1", "P3"], "what happened")
    referee.own_write_ends(2, "returned")
    assert (referee.reads, referee.writes, referee.loads_begun, referee.violations) == (2, 1, 1, 1)
    assert referee.broken == {"C1": 1, "P3": 1}
    assert "what happened" in referee.examples[0]
    referee.own_begins(7, 0.0, 3, "a read")
    referee.died(7)
    assert not referee.own


def test_what_another_process_stored_meanwhile_is_cached_too_where_each_has_to_learn_for_itself() -> None:
    first, mine, others = [(2 << 32) + 7, "", [1]], [(4 << 32) + 9, "", [1]], [(6 << 32) + 3, "", [1]]
    for single in (True, False):
        assert kept(first, first, 4, single=single)
        assert not kept(first, mine, 4, single=single)
        assert not kept(first, None, 4, single=single)
    assert kept(first, others, 4, single=False)
    assert not kept(first, others, 4, single=True)
