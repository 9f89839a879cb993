"""Real processes: killed while they write, forked; and threads and event loops of one process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import BackendError
from agent_cache.backends.base import Blocked, Found, Missing, NewEntry, Taken
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.disk.reading import Reading
from agent_cache.tags import read_tags, write_tags
from tests.disk.conftest import CART, CODEC, KEY, WRITE, Talk

Make = Callable[..., Talk]

# The source is what the parent wrote down last; the child "commits" by printing, between BEGIN and END.
_CHILD = """
import sys
from typing import Any
from agent_cache.backends.base import NewEntry, Missing, Found
from agent_cache.backends.disk import DiskBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags, write_tags
C = codec_for(Any)
sys.stdin.readline()
backend = DiskBackend(sys.argv[1], write_lease=0.2, settle=0.1).sync
start = int(sys.argv[2])
values = dict.fromkeys(range(5), start)
for n in range(start, start + 100_000):
    for item in range(5) if n >= start + 5 else ():  # what is killed next leaves entries of the others behind
        T = read_tags([("cart", str(item))], ())
        found = backend.lookup(b"%d" % item, T, C)
        if isinstance(found, Missing):
            backend.fill(found.token, NewEntry(b"%d" % item, C.freeze(values[item]), None, 0.1, "g", None, ()))
        elif isinstance(found, Found):
            assert found.stored.fresh() >= values[item]
    item = n % 5
    W = write_tags([("cart", str(item))], ())
    window = backend.begin(W, "w")
    print("begun", item, n, flush=True)
    values[item] = n
    backend.end(window, unknown=False, no_effect=False)
"""


def _started(warm: Any, path: Path, number: int) -> subprocess.Popen[str]:
    """A child that waits for a word before it begins: what it imports takes longer than its work."""
    program = path.with_name("child.py")
    if not program.exists():  # written once: another child may be reading it
        program.write_text(_CHILD)
    command = warm.command(str(program), str(path), str((number + 1) * 1_000_000), imports=["sqlite3"])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _kill_repeatedly(warm: Any, path: Path, times: int) -> None:
    acknowledged: dict[int, int] = {}
    hits = 0
    children = [_started(warm, path, number) for number in range(min(3, times))]
    for round_ in range(times):
        child = children.pop(0)
        if round_ + 3 < times:
            children.append(_started(warm, path, round_ + 3))
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout is not None
        assert child.stderr is not None
        for _ in range(5 + 7 * round_ % 31):
            line = child.stdout.readline().split()
            assert line, child.stderr.read()
            acknowledged[int(line[1])] = int(line[2])
        child.kill()
        rest, failed = child.communicate()
        assert not failed, failed
        for text in rest.splitlines():
            line = text.split()
            if len(line) == 3:
                acknowledged[int(line[1])] = int(line[2])
        survivor = Talk(DiskBackend(path))
        for item, value in acknowledged.items():
            tags = read_tags([("cart", str(item))], ())
            found = survivor.look(b"%d" % item, tags)
            if isinstance(found, Found):  # at or after what was acknowledged before it began
                hits += 1
                assert found.stored.fresh() >= value, f"stale after kill {round_}"
        survivor.sync.set("k", round_)
        assert survivor.sync.get("k") == round_
        survivor.sync.close()
    assert hits >= times, "there was something to be stale"


def test_killed_while_writing(warm: Any, path: Path) -> None:
    _kill_repeatedly(warm, path, 8)


@pytest.mark.soak
def test_killed_while_writing_many_times(warm: Any, path: Path) -> None:
    _kill_repeatedly(warm, path, 200)


_EXITING = """
import sys
from typing import Any
from agent_cache.backends.base import NewEntry
from agent_cache.backends.disk import DiskBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
C, T = codec_for(Any), read_tags([("cart", "42")], ())
backend = DiskBackend(sys.argv[1]).sync
token = backend.lookup(None, T, C).token
assert backend.fill(token, NewEntry(b"key", C.freeze("v"), None, 0.1, "g", None, ()))
window = backend.begin([("any", (), ("other",))], "w")
"""


def test_what_is_pending_is_written_at_exit(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _EXITING, str(path)], timeout=20, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    talk = Talk(DiskBackend(path))
    assert talk.value() == "v"
    talk.sync.close()


def _in_a_fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_opens_the_file_itself(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    assert talk.fill("v")
    talk.sync.flush()
    window = talk.begin()
    handles = [talk.sync._local.handle, talk.sync._writer.handle]

    def child() -> None:
        signal.alarm(20)
        assert isinstance(talk.look(), Blocked)
        assert talk.sync._local.handle not in handles
        talk.end(window)  # stays with the parent
        assert isinstance(talk.look(), Blocked)
        talk.sync.set("from the child", 1)
        talk.sync.close()

    assert _in_a_fork(child) == 0
    assert isinstance(talk.look(), Blocked)
    assert talk.sync.get("from the child") == 1
    talk.end(window)
    assert isinstance(talk.look(), Missing)
    assert talk.fill("w")
    talk.sync.flush()
    assert talk.value() == "w"
    talk.sync.close()


_ANOTHER = """
import sys
from agent_cache.backends.disk import DiskBackend
store = DiskBackend(sys.argv[1]).sync
print(store.get("k"))
store.set("k", "another's")
store.close()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_holds_locks_of_its_own(path: Path) -> None:
    """What the parent has open is not inherited: when it closes it is not the last one, and does not delete the log."""
    talk = Talk(DiskBackend(path))
    talk.sync.set("k", "the parent's")
    assert talk.sync.get("k") == "the parent's"
    go_on, closed = os.pipe()

    def another() -> str:
        return subprocess.run(
            [sys.executable, "-c", _ANOTHER, str(path)], check=True, capture_output=True, text=True
        ).stdout.strip()

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        code = 1
        try:
            talk.sync.set("k", "the child's")
            os.close(closed)
            os.read(go_on, 1)  # until the parent has closed the file
            talk.sync.set("k", "the child's, later")
            told = another()
            code = 0 if (told, talk.sync.get("k")) == ("the child's, later", "another's") else 2
        finally:
            os._exit(code)
    while talk.sync.get("k") != "the child's":
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    talk.sync.close()
    os.close(closed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(go_on)
    assert talk.sync.get("k") == "another's"
    talk.sync.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("whose", ["a reader's", "the writer's"])
def test_a_child_does_without_a_file_that_was_in_use_at_the_fork(
    path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    from agent_cache.backends.disk import store

    monkeypatch.setattr(store, "_FORK_PATIENCE", 0.01)
    talk = Talk(DiskBackend(path))
    talk.sync.set("k", 1)
    assert talk.sync.get("k") == 1
    in_use, over = threading.Event(), threading.Event()
    lock: Any = talk.sync._local.handle.lock if whose == "a reader's" else talk.sync._writer.busy

    def using() -> None:
        with lock:
            in_use.set()
            over.wait()

    def child() -> None:
        signal.alarm(20)
        for _ in range(2):
            with pytest.raises(BackendError, match="in use when this process was forked"):
                talk.sync.get("k")
            with pytest.raises(BackendError, match="in use when this process was forked"):
                talk.begin()

    thread = threading.Thread(target=using)
    thread.start()
    in_use.wait()
    assert _in_a_fork(child) == 0
    over.set()
    thread.join()
    assert talk.sync.get("k") == 1
    talk.end(talk.begin())
    talk.sync.close()


def test_a_thread_that_cannot_be_started_is_asked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no more of them, for a moment."""
    talk = Talk(DiskBackend(path))

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="thread"):
            talk.sync.set("k", 1)
    assert talk.sync._writer._thread is None, "else nobody would ever do what is queued"
    talk.sync.set("k", 2)
    assert talk.sync.get("k") == 2
    talk.sync.close()


def test_the_writer_outlives_whatever_keeps_it_from_its_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(DiskBackend(path))
    due, failures = talk.sync.due_in, [RuntimeError("once"), RuntimeError("twice")]

    def failing() -> float | None:
        if failures:
            raise failures.pop()
        return due()

    monkeypatch.setattr(talk.sync, "due_in", failing)
    job = talk.sync.begin_job(WRITE, "w")
    window = talk.sync._writer.submit(job).result(timeout=20)
    assert not failures
    talk.end(window)
    talk.sync.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pending_fills_stay_with_the_parent(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    talk.look()
    with talk.sync._writer._lock:  # the writer sleeps until the fork is over
        assert talk.sync._pending.add(_row(talk))

        def child() -> None:
            signal.alarm(20)
            assert not talk.sync._pending.rows
            talk.sync.flush()
            assert talk.value() == "-"

        assert _in_a_fork(child) == 0
    talk.sync.flush()
    assert talk.value() == "v"
    talk.sync.close()


def _row(talk: Talk) -> Any:
    from agent_cache.backends.disk.names import tool_key

    store = talk.sync
    return store.row_of(tool_key(KEY), CODEC.to_payload("v"), None, 0.1, talk.look(None).token, store._names.group("g"))


def test_several_event_loops_and_threads(path: Path) -> None:
    backend = DiskBackend(path)
    failures: list[BaseException] = []

    async def work(number: int) -> None:
        tags, writes = read_tags([("cart", str(number % 3))], ()), write_tags([("cart", str(number % 3))], ())
        for turn in range(20):
            found = await backend.lookup(b"%d" % (number % 3), tags, CODEC)
            if isinstance(found, Missing):
                await backend.fill(found.token, NewEntry(b"%d" % (number % 3), CODEC.freeze(1), None, 0.1, "g", 5, ()))
            if turn % 5 == number % 5:
                await backend.end(await backend.begin(writes, "w"), unknown=False, no_effect=turn % 2 == 0)
            await backend.set(f"{number}", turn)
            assert await backend.get(f"{number}") == turn

    def loop(number: int) -> None:
        try:
            asyncio.run(work(number))
            asyncio.run(work(number))
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.sync.close()
    assert not failures


def test_closing_beside_readers_harms_nobody(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    talk.sync.set("k", 1)
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert talk.sync.get("k") == 1
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        talk.sync.set("other", number)
        talk.sync.close()
    stop.set()
    for thread in threads:
        thread.join()
    talk.sync.close()
    assert not failures


@pytest.mark.parametrize("blocking", [True, False])
def test_a_file_that_is_locked_for_a_moment_is_asked_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    backend = DiskBackend(path)
    backend.sync.set_many({"a": 1, "b": 1})
    left = 0
    real = Reading._reader

    class Locked:
        """As SQLite says it while the last connection of another process copies its log into the file."""

        def __init__(self, handle: Any) -> None:
            self._handle = handle
            self.cursor = self

        def __getattr__(self, name: str) -> Any:
            return getattr(self._handle, name)

        def execute(self, *given: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return self._handle.cursor.execute(*given)

    monkeypatch.setattr(Reading, "_reader", lambda self: Locked(real(self)))

    def get(key: str) -> Any:
        return backend.sync.get(key) if blocking else asyncio.run(backend.get(key))

    left = 1
    assert get("a") == 1
    assert left == 0
    left = 1_000
    with pytest.raises(BackendError, match="another process keeps it locked"):
        get("b")
    assert left == (995 if blocking else 998), "an event loop is not held up for long"
    left = 0
    assert get("b") == 1
    backend.sync.close()


def test_a_cancelled_begin_leaves_no_window_for_ever(path: Path) -> None:
    async def scenario() -> None:
        async with DiskBackend(path) as backend:
            task = asyncio.ensure_future(backend.begin(WRITE, "w"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            await backend.flush()
            await backend.set("k", 1)  # a round of its own: the thread has let go of the last one
            gc.collect()
            assert not list(backend.sync._held.windows)  # nobody renews it

    asyncio.run(scenario())


def test_a_busy_file_is_waited_for_and_then_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from agent_cache.backends.disk import writer

    monkeypatch.setattr(writer, "_PATIENCE", 0.3)  # two seconds, when nobody watches
    talk = Talk(DiskBackend(path))
    window = talk.begin()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendError, match="another process keeps it locked"):
        talk.begin()
    with pytest.raises(BackendError, match="another process keeps it locked"):
        talk.end(window)
    assert isinstance(talk.look(), Blocked)
    db.execute("ROLLBACK")
    db.close()
    talk.sync.flush()
    talk.sync.flush()
    assert isinstance(talk.look(), Missing)  # delivered in the background
    talk.sync.close()


def test_a_lead_is_not_lost_with_its_backend_closed(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    token = talk.look().token
    lead = talk.sync.lead(KEY, CART, token)
    assert not isinstance(lead, Taken)
    assert talk.fill("v", token, lead=lead)
    talk.sync.close()
    assert talk.value() == "v"
    talk.sync.close()
