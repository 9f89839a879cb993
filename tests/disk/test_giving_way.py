"""While it writes behind, the writer thread lets others have the interpreter; not while somebody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from agent_cache.backends.disk import writer as writing
from agent_cache.backends.disk.pending import Pending
from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.writer import Job, Writer
from tests.disk.conftest import Talk

Make = Callable[..., Talk]
TURN = "turn"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the writer thread did, and where it gave way."""
    said: list[str] = []

    def noted(owner: Any, name: str, step: str) -> None:
        real = getattr(owner, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            if threading.current_thread().name == "agent_cache disk writer":
                said.append(step)
            return real(*given, **named)

        monkeypatch.setattr(owner, name, wrapped)

    noted(EntryStore, "_label", "label")
    noted(EntryStore, "release", "release")
    noted(EntryStore, "make_room", "make room")
    noted(EntryStore, "tidy", "tidy")
    noted(Pending, "done", "done")
    noted(Writer, "_give_way", TURN)
    return said


def filled(talk: Talk, many: int) -> None:
    for number in range(many):
        key = b"%d" % number
        token = talk.look(None).token
        assert talk.fill("v", token, key=key, lead=talk.sync.lead(key, (), token))


def written_behind(talk: Talk, many: int) -> None:
    """Fill, and wait until the thread wrote it of its own accord and has been at its upkeep."""
    tidied = threading.Event()
    real = talk.sync.tidy

    def tidy(db: Any, *, idle: bool) -> None:
        real(db, idle=idle)
        if not talk.sync.waiting():
            tidied.set()

    talk.sync.connect()
    talk.sync.tidy = tidy  # type: ignore[method-assign]
    filled(talk, many)
    assert tidied.wait(30)


def longest_run(steps: list[str], step: str) -> int:
    """How often a step was taken between two turns."""
    turns = [-1, *(at for at, name in enumerate(steps) if name == TURN), len(steps)]
    return max(steps[one:other].count(step) for one, other in pairwise(turns))


def test_a_batch_is_written_in_small_pieces(make: Make, steps: list[str]) -> None:
    written_behind(make(), 40)
    assert steps.count("release") == 40
    assert longest_run([step for step in steps if step != "make room"], "release") <= 8
    before = steps[: steps.index("make room")]  # labels are made before the transaction; in it they are there
    assert longest_run(before[: before.index(TURN) + 1], "label") <= 12
    assert steps[steps.index("done") - 1] == TURN, "after the commit"
    at = len(steps) - 1 - steps[::-1].index("release")
    assert TURN in steps[at : steps.index("tidy", at)], "before its upkeep"


def test_who_waits_is_not_kept_waiting(make: Make, steps: list[str]) -> None:
    talk = make()
    talk.sync.connect()
    with talk.sync._writer.busy:  # the thread stands before its next round
        filled(talk, 20)
        flushed = talk.sync._writer.submit(talk.sync.flush_job())
    flushed.result(30)
    assert steps.count("release") == 20
    assert TURN not in steps[: len(steps) - 1 - steps[::-1].index("release")]


def test_it_gives_way_unless_there_is_something_to_hurry_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(writing, "sleep", naps.append)
    talk = make()
    writer = talk.sync._writer
    writer._give_way()
    assert naps == [writing._TURN]
    monkeypatch.setattr(EntryStore, "is_behind", lambda _self: True)
    writer._give_way()
    monkeypatch.setattr(EntryStore, "is_behind", lambda _self: False)
    writer._jobs.append(Job(lambda _db: None))
    writer._give_way()
    writer._jobs.clear()
    writer._closing = True
    writer._give_way()
    assert len(naps) == 1


def test_much_that_is_pending_is_something_to_hurry_for(make: Make) -> None:
    talk = make()
    assert not talk.sync.is_behind()
    talk.sync._pending.rows.update({b"%d" % number: None for number in range(1_025)})  # type: ignore[dict-item]
    assert talk.sync.is_behind()
    talk.sync._pending.rows.clear()
