"""Two backends on one file see each other as two processes do: windows, markers, leads, write-behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_cache.backends.base import Blocked, Missing, Same, Taken
from agent_cache.backends.disk import leadtable, room
from agent_cache.backends.disk.leases import Those
from agent_cache.backends.disk.writer import Job
from agent_cache.testing import FakeClock
from tests.disk.conftest import CART, CODEC, KEY, WRITE, Talk

Make = Callable[..., Talk]


def test_an_entry_of_one_is_a_hit_of_the_other(make: Make) -> None:
    one, two = make(), make()
    assert one.fill("v")
    one.sync.flush()
    assert two.value() == "v"
    assert one.look().stamp == two.look().stamp


def test_a_write_of_one_drops_and_blocks_for_the_other(make: Make) -> None:
    one, two = make(), make()
    assert one.fill("old")
    one.sync.flush()
    token = two.look(None).token
    window = one.begin()
    assert isinstance(two.look(), Blocked)
    assert not two.fill("late", token)
    one.end(window)
    assert isinstance(two.look(), Missing)
    assert not two.fill("late", token)
    assert two.fill("new")
    two.sync.flush()
    assert one.value() == "new"


def test_a_pending_entry_is_not_served_after_the_other_began(make: Make) -> None:
    one, two = make(), make()
    one.look()
    one.sync.connect()
    assert one.fill("old")
    window = two.begin()
    assert one.value() == "-"
    one.sync.flush()
    assert one.value() == "-"
    two.end(window)
    assert one.value() == "-"
    assert two.value() == "-"


def test_a_writer_that_died_blocks_for_its_lease(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    assert one.fill("old")
    one.sync.flush()
    window = one.begin()
    one.sync._held.windows = Those()  # its process is gone: nobody renews
    clock.advance(29)
    assert isinstance(two.look(), Blocked)
    clock.advance(2)
    assert isinstance(two.look(), Missing)
    assert two.fill("new")
    two.sync.flush()
    assert two.value() == "new"
    one.end(window)  # it was only frozen: what was loaded meanwhile goes
    assert two.value() == "-"


def test_an_open_window_is_renewed(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    window = one.begin()
    for _ in range(6):
        clock.advance(20)
        one.sync.flush()  # the writer thread looks at the clock whenever it wakes
        assert isinstance(two.look(), Blocked)
    one.end(window)
    assert isinstance(two.look(), Missing)
    assert one.sync.stats()["lost_markers"] == 0


def test_a_renewal_that_comes_too_late_moves_the_tags_again(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    window = one.begin()
    one.sync._held.windows = Those()  # its process is frozen
    clock.advance(31)
    assert two.fill("loaded meanwhile")
    two.sync.flush()
    assert one.value() == "loaded meanwhile"
    one.sync._held.windows.add(window)
    one.sync.flush()
    assert isinstance(two.look(), Blocked)
    assert one.sync.stats()["lost_markers"] == 1
    one.end(window, no_effect=True)
    assert two.value() == "-"


def test_without_effect_nothing_is_restored_after_the_lease(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    assert one.fill("old")
    window = one.begin()
    one.sync._held.windows = Those()
    clock.advance(31)
    one.end(window, no_effect=True)
    assert two.value() == "-"


def test_without_effect_is_compare_and_set(make: Make) -> None:
    one, two = make(), make()
    assert one.fill("old")
    window = one.begin()
    two.sync.move(WRITE, "other")
    one.end(window, no_effect=True)
    assert one.value() == two.value() == "-"
    assert one.fill("kept")
    one.end(one.begin(), no_effect=True)
    assert two.value() == "kept"


def test_markers_of_another_boot_are_moved_and_dropped(make: Make) -> None:
    one = make()
    assert one.fill("old")
    window = one.begin()
    one.end(one.begin(), unknown=True)
    one.sync._held.windows = Those()
    one.sync.close()
    token = one.look(None)
    assert isinstance(token, Blocked)
    two = make()
    two.sync._set_boot(b"another!")
    assert isinstance(two.look(), Missing)
    assert two.fill("new")
    two.sync.flush()
    assert two.value() == "new"
    assert not window.closed


def test_one_leads_and_the_other_waits(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    token = one.look().token
    assert token == two.look().token
    lead = one.sync.lead(KEY, CART, token)
    assert not isinstance(lead, Taken)
    again = two.sync.lead(KEY, CART, token)
    assert isinstance(again, Taken)
    assert not again.again
    for _ in range(4):  # renewed while it loads
        clock.advance(2)
        one.sync.flush()
        taken = two.sync.lead(KEY, CART, token)
        assert isinstance(taken, Taken)
        assert not taken.again
    assert one.fill("v", token, lead=lead)
    one.sync.flush()
    taken = two.sync.lead(KEY, CART, token)
    assert isinstance(taken, Taken)
    assert taken.again
    assert two.value() == "v"


@pytest.mark.parametrize("locks", [True, False])
def test_a_lead_given_back_or_stopped_can_be_had(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:  # a system that has none of an opened file
        monkeypatch.setattr(leadtable, "_OF_A_TABLE", None)
    one, two = make(), make()
    token = one.look().token
    lead = one.sync.lead(KEY, CART, token)
    one.sync.release(lead)
    one.sync.flush()
    second = two.sync.lead(KEY, CART, token)
    assert not isinstance(second, Taken)
    two.sync._held.leads = Those()  # its process stands still: nobody renews
    assert isinstance(one.sync.lead(KEY, CART, token), Taken)
    clock.advance(3.1)
    assert not isinstance(one.sync.lead(KEY, CART, token), Taken)


def test_a_lead_that_its_owner_forgot_can_be_had_at_once(make: Make) -> None:
    one, two = make(), make()
    token = one.look().token
    lead = one.sync.lead(KEY, CART, token)
    assert isinstance(two.sync.lead(KEY, CART, token), Taken)
    del lead
    gc.collect()
    assert not isinstance(two.sync.lead(KEY, CART, token), Taken)


def test_a_lead_is_had_still_when_the_file_is_opened_again(make: Make) -> None:
    """As the parent of a process that was forked does."""
    one, two = make(), make()
    token = one.look().token
    lead = one.sync.lead(KEY, CART, token)
    one.sync.before_fork()
    one.look()
    assert isinstance(two.sync.lead(KEY, CART, token), Taken)
    one.sync.release(lead)
    assert not isinstance(two.sync.lead(KEY, CART, token), Taken)


def test_a_refused_fill_gives_its_lead_back(make: Make) -> None:
    one, two = make(), make()
    token = one.look().token
    lead = one.sync.lead(KEY, CART, token)
    two.sync.move(WRITE, "other")
    assert not one.fill("old", token, lead=lead)
    one.sync.flush()
    stale = two.sync.lead(KEY, CART, token)
    assert isinstance(stale, Taken)
    assert stale.again
    assert not isinstance(two.sync.lead(KEY, CART, two.look().token), Taken)


def test_revalidation_does_not_need_the_entry(make: Make) -> None:
    one, two = make(), make()
    assert one.fill("v")
    stamp = one.look().stamp
    assert isinstance(two.sync.revalidate(KEY, CART, CODEC, stamp), Same)
    two.sync.move(WRITE, "other")
    assert isinstance(one.sync.revalidate(KEY, CART, CODEC, stamp), Missing)


def test_clear_of_one_is_seen_by_the_other(make: Make) -> None:
    one, two = make(), make()
    token = two.look().token
    one.sync.set("k", 1)
    one.sync.clear()
    assert two.sync.get("k", "-") == "-"
    assert not two.fill("old", token)


def test_reaping_tags_drops_what_depends_on_absent_ones(make: Make) -> None:
    one, two = make(), make()
    assert one.fill("v")
    one.sync.flush()
    token = two.look(None).token
    for number in range(30):
        one.sync.move([("any", (), ("other", str(number)))], "w")
    one.sync.tag_limit = 10
    one.sync._do(one.sync.upkeep_job())
    assert two.value() == "-"
    assert not two.fill("v", token)
    one.sync.tag_limit = 1_000
    assert two.fill("w")
    two.sync.flush()
    assert one.value() == "w"


def test_tags_are_reaped_in_steps_and_nothing_comes_back_in_between(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody waits while it is done, so a little is done at a time; each step drops what depends on absent tags."""
    monkeypatch.setattr(room, "_REAPED", 20)
    one, two = make(), make()
    one.sync.move([("any", (), ("other", str(number))) for number in range(100)], "w")
    held, more = [], False
    while not held or more:
        assert two.fill("v")
        two.sync.flush()
        token = two.look(None).token
        going_on = more
        more = one.sync._do(Job(lambda db, going_on=going_on: room.reap_tags(db, 60, going_on=going_on)))
        held.append(_rows(two))
        assert two.value() == "-"
        assert not two.fill("v", token)
    assert held == [81, 61, 41, 30]


def _rows(talk: Talk) -> int:
    talk.sync.connect()
    return int(talk.sync._select("SELECT count(*) FROM tags", ())[0][0])


def test_reaping_goes_on_with_whatever_is_done_next(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_REAPED", 20)
    talk = make()
    talk.sync.move([("any", (), ("other", str(number))) for number in range(100)], "w")
    talk.sync.tag_limit = 60
    talk.sync._do(talk.sync.upkeep_job())
    for number in range(5):
        talk.sync.set("k", number)
    talk.sync.close()  # the last round is over
    assert not talk.sync._reaping
    assert _rows(talk) == 30


def test_a_set_of_many_tags_is_not_remembered(make: Make) -> None:
    talk = make()
    names = talk.sync._names
    before = names.set_of.cache_info().currsize
    talk.sync.move([("any", (), ("other", str(number))) for number in range(1_000)], "w")
    assert names.set_of.cache_info().currsize == before
    few = [("any", (), ("other", "1"))]
    assert names.of(few) is names.of(few)


def test_reaping_leaves_live_markers(make: Make) -> None:
    one, two = make(), make()
    window = one.begin()
    one.sync.tag_limit = 0
    one.sync._do(one.sync.upkeep_job())
    assert isinstance(two.look(), Blocked)
    one.end(window)


def test_another_secret_is_told(make: Make) -> None:
    import pytest

    from agent_cache import ConfigurationError

    make(secret="a").sync.set("k", 1)
    with pytest.raises(ConfigurationError, match="secret"):
        make(secret="b").sync.get("k")


def test_a_fill_wakes_the_writer_by_itself(make: Make) -> None:
    talk = make()
    landed = threading.Event()
    original = talk.sync._pending.done

    def done(*arguments: Any) -> None:
        original(*arguments)
        landed.set()

    talk.sync._pending.done = done  # type: ignore[method-assign]
    for number in range(20):
        landed.clear()
        assert talk.fill(number)
        if number % 3 == 0:
            talk.sync.move([("any", (), ("elsewhere",))], "w")
        assert landed.wait(4)


def test_tags_that_move_between_a_glance_and_its_select_are_all_asked_for_again(make: Make) -> None:
    one, two = make(), make()
    one.look(None)
    names, known = one.sync._names.of(CART), one.sync._glance().known
    _, before, _ = one.sync._fetch(None, names, known)
    two.sync.move(WRITE, "w")
    _, versions, fresh = one.sync._fetch(None, names, known)
    assert fresh is not known
    assert versions.stamp == two.look(None).token.stamp
    assert versions.stamp != before.stamp


def test_a_fill_whose_tags_move_before_it_is_written_is_not_written(make: Make) -> None:
    one, two = make(), make()
    token = one.look(None).token
    with one.sync._writer._lock:  # it writes nothing until this is over
        assert one.fill("v", token)
        two.sync.move(WRITE, "w")
    one.sync.flush()
    assert one.sync.stats()["entries"] == 0
    assert one.sync.stats()["refused_fills"] == 1
