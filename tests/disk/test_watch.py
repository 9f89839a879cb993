"""What is served without asking SQLite, and that it is over once anything was written, whoever wrote it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, BackendError
from agent_cache.backends.base import Found, Missing
from agent_cache.backends.disk import DiskBackend, files, nearby
from agent_cache.backends.disk.schema import FLOOR_SQL
from agent_cache.backends.disk.store import EntryStore
from agent_cache.testing import FakeClock
from tests.disk.conftest import CART, CODEC, KEY, WRITE, Talk

Make = Callable[..., Talk]


@pytest.fixture(params=["reads the log's head", "asks SQLite"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asks SQLite":
        monkeypatch.setattr(files, "shared_memory", lambda *_: None)


@pytest.fixture
def selects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that reads entries or tags."""
    seen: list[str] = []
    real = EntryStore._select

    def select(self: EntryStore, sql: str, parameters: Any) -> Any:
        seen.append(sql)
        return real(self, sql, parameters)

    monkeypatch.setattr(EntryStore, "_select", select)
    return seen


def stored(talk: Talk, value: object = "v", **how: Any) -> None:
    assert talk.fill(value, **how)
    talk.sync.flush()
    assert talk.value() == value


def near(talk: Talk) -> Any:
    """The entry as it is served without asking, and whether it may be."""
    found = talk.look()
    assert isinstance(found, Found)
    assert found.near is not None
    assert found.generation is found.near.home.generation
    return found.near


def is_served(entry: Any, generation: object) -> bool:
    """As a decorated tool decides."""
    return entry.home.hot_clock() < entry.deadline and generation is entry.home.generation


# ----------------------------------------------------------------------------------------------------- lookups


def test_a_lookup_reads_nothing_while_nothing_was_committed(make: Make, selects: list[str]) -> None:
    talk = make()
    stored(talk)
    selects.clear()
    for _ in range(5):
        assert talk.value() == "v"
    assert selects == []


def test_a_key_value_read_is_the_same(make: Make, selects: list[str], clock: FakeClock) -> None:
    one, two = make(), make()
    two.sync.set("k", [1], ttl=10)
    first = one.sync.get("k")
    selects.clear()
    first.append(2)
    assert one.sync.get("k") == [1]
    assert selects == []
    two.sync.set("k", [3], ttl=10)
    assert one.sync.get("k") == one.sync.get("k") == [3]
    clock.advance(10)
    assert one.sync.get("k", "-") == "-"
    assert one.sync.stats()["hits"] == 4


def test_any_commit_makes_the_next_lookup_read_but_not_decode(make: Make, selects: list[str]) -> None:
    one, two = make(), make()
    stored(one)
    first = one.look().stored
    for number in range(2):
        if number:
            two.sync.move([("any", (), ("elsewhere",))], "w")
        else:
            two.sync.set("k", 1)
        selects.clear()
        found = one.look()
        assert found.stored is first
        assert len(selects) == 1


def test_an_entry_that_is_gone_from_the_file_is_a_miss(make: Make) -> None:
    one, two = make(), make()
    stored(one)
    two.sync._do(_deleting())
    assert isinstance(one.look(), Missing)


def _deleting() -> Any:
    from agent_cache.backends.disk.writer import Job

    return Job(lambda db: db.execute("DELETE FROM entries").rowcount)


def test_an_entry_that_expires_is_a_miss(make: Make, clock: FakeClock) -> None:
    talk = make()
    stored(talk, ttl=10)
    near(talk)
    clock.advance(9.5)
    found = talk.look()
    assert found.ttl_left == pytest.approx(0.5)
    assert found.age == pytest.approx(9.5)
    clock.advance(0.5)
    assert talk.look().why == "expired"


@pytest.mark.parametrize("what", ["version=x'00'", "fence=x'00'", 'markers=\'[["w", 1e12, "b"]]\''])
def test_a_tag_changed_by_anybody_is_noticed(make: Make, path: Path, what: str) -> None:
    talk = make()
    talk.sync.move(WRITE, "w")
    stored(talk)
    known = talk.sync._glance().known
    db = sqlite3.connect(path)
    with db:
        assert db.execute(f"UPDATE tags SET {what} WHERE id<>x''").rowcount  # noqa: S608
    db.close()
    assert talk.sync._glance().known is not known


@pytest.mark.parametrize("sql", ["DELETE FROM tags WHERE id<>x''", "UPDATE tags SET version=x'00' WHERE id=x''"])
def test_tags_lost_to_anybody_drop_what_depends_on_them(make: Make, path: Path, sql: str) -> None:
    talk = make()
    talk.sync.move(WRITE, "w")
    stored(talk)
    entry, generation = near(talk), talk.look().generation
    db = sqlite3.connect(path)
    with db:
        db.execute(sql)
    db.close()
    assert not is_served(entry, generation)
    assert talk.value() == "-"


# ---------------------------------------------------------------------------------------- without any lookup


def test_it_is_served_while_no_tag_was_changed(make: Make) -> None:
    one, two = make(), make()
    stored(one)
    entry, generation = near(one), one.look().generation
    two.sync.set("k", 1)  # a commit, but of no tag
    assert is_served(entry, generation)
    two.sync.move([("any", (), ("elsewhere",))], "w")
    assert not is_served(entry, generation)
    assert is_served(near(one), one.look().generation), "warm again"


@pytest.mark.parametrize("ends", ["move", "begin", "clear", "drop_chain", "replaced", "deleted", "closed", "forget"])
def test_it_is_not_served_once(make: Make, path: Path, ends: str) -> None:
    one, two = make(), make()
    stored(one, chain=("session", "s"))
    entry, generation = near(one), one.look().generation
    assert is_served(entry, generation)
    if ends == "move":
        two.sync.move(WRITE, "w")
    elif ends == "begin":
        two.begin()
    elif ends == "clear":
        two.sync.clear()
    elif ends == "drop_chain":
        two.sync.drop_chain(("session", "s"))
    elif ends == "replaced":
        shutil.copy(path, f"{path}.copy")
        Path(f"{path}.copy").replace(path)
    elif ends == "deleted":
        path.unlink()
    elif ends == "closed":
        one.sync.close()
        two.sync.close()
        make().sync.move(WRITE, "w")  # by a process that finds the log gone
    else:
        one.sync.forget(WRITE, "w")
    assert not is_served(entry, generation)


def test_a_log_that_was_begun_anew_is_not_taken_for_the_old_one(make: Make) -> None:
    """An empty log looks the same every time: what was found under one is over once the file was closed."""
    one = make()
    stored(one)
    one.sync.close()
    assert one.value() == "v"
    entry, generation = near(one), one.look().generation
    one.sync.close()
    other = make()
    other.sync.move(WRITE, "w")
    other.sync.close()
    assert one.value() == "-"
    assert not is_served(entry, generation)


def test_what_was_dropped_for_room_is_not_served(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = make()
    monkeypatch.setattr(nearby, "_MOST_BYTES", int(2.5 * nearby._EACH))
    served = []
    for number in range(4):
        key = b"%d" % number
        assert talk.fill(number, key=key)
    talk.sync.flush()
    for number in range(4):
        found = talk.look(b"%d" % number)
        served.append((found.near, found.generation))
    assert [is_served(*each) for each in served] == [False, False, True, True]
    assert served[0][0].stored.fresh() is None, "its value is not held any more"


def test_how_many_are_held_is_a_matter_of_bytes_alone(make: Make, selects: list[str]) -> None:
    talk = make()
    many = [b"%d" % number for number in range(3_000)]
    for at in range(0, len(many), 500):
        for key in many[at : at + 500]:
            assert talk.fill("small", key=key)
        talk.sync.flush()
    for key in many:
        assert talk.value(key) == "small"
    selects.clear()
    talk.sync._names.set_of.cache_clear()  # what its tags are called is known where an entry is
    for key in many:
        assert talk.value(key) == "small"
    assert selects == []
    assert talk.sync._names.set_of.cache_info().currsize == 0


def test_what_is_large_is_not_held(make: Make) -> None:
    talk = make()
    stored(talk, "x" * 2_000_000)
    assert talk.look().near is None or not talk.sync._nearby.entries


def test_what_is_served_without_asking_counts_as_used(make: Make) -> None:
    talk = make(max_bytes=100_000)
    stored(talk)
    entry, generation = near(talk), talk.look().generation
    for number in range(300):
        assert is_served(entry, generation)
        entry.visited = True
        talk.sync._touched.clear()
        talk.sync.set(str(number), "x" * 1000)
    assert talk.sync.get("0", "-") == "-"
    assert talk.value() == "v"


def test_another_thread_that_hears_first_hides_nothing(make: Make) -> None:
    one, two = make(), make()
    stored(one)
    entry, generation = near(one), one.look().generation
    two.sync.move(WRITE, "w")
    thread = threading.Thread(target=one.sync.unchanged)
    thread.start()
    thread.join()
    assert not is_served(entry, generation)


async def test_a_decorated_tool_asks_nobody_and_sees_every_write(path: Path, selects: list[str]) -> None:
    here, there = DiskBackend(path), DiskBackend(path)
    source, loads = {"a": 1}, 0

    @AgentCache("item:{name}", backend=here)
    async def read(name: str) -> int:
        nonlocal loads
        loads += 1
        return source[name]

    @AgentCacheInvalidator("item:{name}", backend=there)
    async def write(name: str, value: int) -> None:
        source[name] = value

    for value in range(2, 5):
        for _ in range(3):
            await read("a")
            await here.flush()
        selects.clear()
        loads = 0
        for _ in range(10):
            assert await read("a") == source["a"]
        assert (selects, loads) == ([], 0)
        await write("a", value)
        assert await read("a") == value
    await here.close()
    await there.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_serves_nothing_of_its_parents(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    stored(talk)
    entry, generation = near(talk), talk.look().generation
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            code = int(is_served(entry, generation)) * 2
            assert talk.value() == "v"
            assert is_served(near(talk), talk.look().generation)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not is_served(entry, generation)  # the file was closed for the fork
    assert talk.value() == "v"
    assert is_served(near(talk), talk.look().generation)
    talk.sync.close()


# ----------------------------------------------------------------------------------------------- the files


def test_the_log_stays_open_while_anybody_here_has_the_database_open(make: Make, path: Path) -> None:
    one, two = make(), make()
    stored(one)
    assert two.value() == "v"
    which = files.identity(str(path))
    held = list(files._shared_memory.get(which, ()))
    one.sync.close()
    assert list(files._shared_memory.get(which, ())) == held, "closing it would drop SQLite's locks"
    two.sync.close()
    assert which not in files._shared_memory


def test_a_reader_that_failed_is_followed_by_one_that_works(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = make()
    stored(talk)

    class Failing:
        def execute(self, *_: object) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

    talk.sync.set("k", 1)  # so that it has to be read again
    monkeypatch.setattr(talk.sync._local.handle, "cursor", Failing())
    with pytest.raises(BackendError, match="I/O error"):
        talk.look()
    monkeypatch.undo()
    assert talk.value() == "v"


def test_a_reader_that_would_wait_for_who_opens_leaves_that_to_the_writer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = make()
    stored(talk)
    talk.sync._nearby.clear()
    real, asked = files.connect, []

    def connect(*arguments: Any, **how: Any) -> Any:
        asked.append(threading.current_thread().name)
        if len(asked) == 1:
            raise files.Opening("it is being opened")
        return real(*arguments, **how)

    monkeypatch.setattr(files, "connect", connect)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(talk.value()), name="a reader")
    thread.start()
    thread.join()
    assert got == ["v"]
    assert asked == ["a reader", "a reader"]


def test_a_lookup_for_another_codec_decodes_anew(make: Make) -> None:
    from agent_cache.codecs import codec_for

    talk = make()
    stored(talk, [1])
    other = talk.sync.lookup(KEY, CART, codec_for(list[int]))
    assert isinstance(other, Found)
    assert other.stored is not talk.look().stored
    assert talk.sync.lookup(KEY, CART, CODEC) is not None


def test_what_is_left_of_a_log_is_not_looked_at_in_another_mode(make: Make, path: Path) -> None:
    one = make()
    stored(one)
    left = Path(f"{path}-shm").read_bytes()
    one.sync.close()
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    Path(f"{path}-shm").write_bytes(left)
    two = make()
    entry, generation = near(two), two.look().generation
    assert is_served(entry, generation)
    db.execute("UPDATE tags SET version=x'00' WHERE id=x''")
    db.close()
    assert not is_served(entry, generation)
    assert isinstance(two.look(), Missing)


class Between:
    """A connection that is interrupted after it has read how often any tag changed."""

    def __init__(self, db: sqlite3.Connection, work: Callable[[], object]) -> None:
        self._db = db
        self._work = [work]

    def execute(self, sql: str) -> Any:
        found = self._db.execute(sql)
        if sql == FLOOR_SQL and self._work:
            row = found.fetchone()
            self._work.pop()()
            return SimpleNamespace(fetchone=lambda: row)
        return found

    def close(self) -> None:
        self._db.close()


def test_what_is_committed_while_the_tags_are_asked_for_is_noticed_the_next_time(make: Make) -> None:
    one, two = make(), make()
    stored(one)
    entry, generation = near(one), one.look().generation
    watch = one.sync._watch
    assert watch is not None
    two.sync.set("k", 1)  # something was committed: it looks again, and meanwhile a tag is moved
    between: Any = Between(watch.handle.db, lambda: two.sync.move(WRITE, "w"))
    watch.handle.db = between
    one.sync._glance()
    assert not between._work
    assert not is_served(entry, generation)
    assert isinstance(one.look(), Missing)
