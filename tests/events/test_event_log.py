"""Events in a file: nothing of a call's values unless asked for, bounded, and whole again after every accident."""

from __future__ import annotations

import errno
import io
import itertools
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, AgentLoopDetectedError, configure
from agent_cache.errors import ConfigurationError
from agent_cache.events import EventLog, Unread, read_events
from agent_cache.events import log as writing
from agent_cache.events.lines import LABEL, Lines, from_line
from agent_cache.model import CallEvent, Event, InvalidationEvent, LoopEvent, ToolCall

SECRET = "s3cr3t"
TEXTS = st.text(st.characters(), max_size=80)
OPTIONAL = st.none() | TEXTS
NUMBERS = st.floats(0, 1e9)
CALLS = st.builds(
    CallEvent, tool=TEXTS, resource=TEXTS, outcome=st.sampled_from(["hit", "miss", "stale", "stale_served"]), reason=OPTIONAL,
    session_id=OPTIONAL, age=st.none() | NUMBERS, seconds=NUMBERS, tags=st.lists(TEXTS, max_size=3).map(tuple),
    stored=st.booleans(), refused=OPTIONAL, failed=st.booleans(), dropped_by=OPTIONAL, seconds_saved=NUMBERS, cost_saved=NUMBERS,
)  # fmt: skip
WRITES = st.builds(
    InvalidationEvent, tool=TEXTS, tags=st.lists(TEXTS, max_size=3).map(tuple), scope=TEXTS, session_id=OPTIONAL,
    reason=OPTIONAL, failed=st.booleans(), no_effect=st.booleans(), resource=TEXTS,
)  # fmt: skip
ARGUMENTS = st.dictionaries(TEXTS, TEXTS, max_size=3)
LOOPS = st.builds(
    LoopEvent, tool=TEXTS, arguments=ARGUMENTS, kind=st.sampled_from(["repeat", "cycle"]), period=st.integers(1, 5),
    count=st.integers(1, 99), calls=st.lists(st.builds(ToolCall, TEXTS, ARGUMENTS, st.integers(1, 99), OPTIONAL), max_size=3).map(tuple),
    first_step=st.integers(1, 9), last_step=st.integers(9, 99), hint=TEXTS, session_id=OPTIONAL,
)  # fmt: skip


def call(tool: str = "get", **more: Any) -> CallEvent:
    return CallEvent(tool, "thing:{id}", "hit", None, "s", 1.5, 0.01, (f"any(thing:{SECRET})",), **more)


@given(CALLS | WRITES | LOOPS)
def test_with_values_a_line_says_all_of_an_event(event: Event) -> None:
    line = Lines(values=True, salt=b"x").line(12.5, event)
    assert "\n" not in line
    found = from_line(line)
    assert found is not None
    assert (found.at, found.event) == (12.5, event)


def test_without_values_no_line_has_anything_of_a_call() -> None:
    lines = Lines(values=False, salt=b"x")
    shown = ToolCall("get", {"id": SECRET}, 3, f"answer {SECRET}")
    events: list[Event] = [
        call(refused=f"{SECRET} is no number"),
        InvalidationEvent(
            "put", (f"any(thing:{SECRET})@user={SECRET}",), "user", "s", f"{SECRET} is None", resource="thing:{id}"
        ),
        LoopEvent("get", {"id": SECRET}, "repeat", 1, 5, (shown, shown), 1, 6, f"get({SECRET}) was called", "s"),
    ]
    said = [lines.line(1, event) for event in events]
    assert not any(SECRET in line for line in said)
    loop = from_line(said[2])
    assert loop is not None
    assert isinstance(loop.event, LoopEvent)
    first, second = loop.event.calls
    assert first.arguments == second.arguments, "equal calls can be told to be equal"
    assert first.arguments.keys() == {LABEL}
    other = Lines(values=False, salt=b"y").line(1, events[2])
    assert other != said[2], "nobody can look a label up"


def test_codes_are_told_and_sentences_are_not() -> None:
    lines = Lines(values=False, salt=b"x")
    assert json.loads(lines.line(1, call(refused="fenced_out")))["refused"] == "fenced_out"
    assert "refused" not in json.loads(lines.line(1, call(refused="parameter x: not a number")))


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_a_broken_line_is_no_event(line: str) -> None:
    assert from_line(line) is None


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"kind": "else"}, {"outcome": "won"}, {"seconds": "long"}, {"at": "now"}, {"at": 1e300}, {"at": float("nan")}, {"tool": None}, {"tags": 3}],
)  # fmt: skip
def test_a_line_of_something_else_is_no_event(change: dict[str, Any]) -> None:
    said = json.loads(Lines(values=True, salt=b"x").line(1, call()))
    assert from_line(json.dumps(said)) is not None
    assert from_line(json.dumps(said | change)) is None


def test_tools_are_heard_through_a_file(tmp_path: Path) -> None:
    @AgentCache("cart:{user}")
    def get_cart(user: str) -> int:
        return 1

    @AgentCacheInvalidator("cart:{user}")
    def add(user: str) -> None: ...

    moments = itertools.count(100)
    with EventLog(tmp_path / "events.jsonl", now=lambda: float(next(moments))) as log:
        configure(observers=[log])
        try:
            get_cart("u")
            get_cart("u")
            add("u")
            get_cart("u")
            with AgentCacheSession():
                for _ in range(5):
                    get_cart("u")
                with pytest.raises(AgentLoopDetectedError):
                    get_cart("u")
        finally:
            configure(observers=())
        assert log.flush()
    found = list(read_events([tmp_path / "events.jsonl"]))
    events = [one.event for one in found]
    assert [one.at for one in found] == [float(100 + n) for n in range(len(found))]
    assert [event.outcome for event in events if isinstance(event, CallEvent)][:3] == ["miss", "hit", "stale"]
    assert sum(isinstance(event, InvalidationEvent) for event in events) == 1
    (loop,) = (event for event in events if isinstance(event, LoopEvent))
    assert (loop.kind, loop.count, len(loop.calls)) == ("repeat", 5, 5)
    assert len(list(read_events([tmp_path / "events.jsonl"], since=101, until=103))) == 2
    assert stat.S_IMODE((tmp_path / "events.jsonl").stat().st_mode) == 0o600


def test_files_rotate_and_are_read_as_one_history(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    moments = itertools.count()
    with EventLog(path, max_bytes=10_000, keep=2, now=lambda: float(next(moments))) as log:
        for n in range(600):
            log.on_event(call(f"tool_{n:04}"))
            if n % 50 == 0:
                assert log.flush()
    sizes = [part.stat().st_size for part in tmp_path.iterdir()]
    assert sorted(part.name for part in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert max(sizes) <= 10_000
    kept = [one.at for one in read_events([path])]
    assert kept == [float(n) for n in range(600 - len(kept), 600)]
    assert sum(sizes) > 20_000


def test_with_keep_0_there_is_one_file(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl", max_bytes=10_000, keep=0) as log:
        for _ in range(200):
            log.on_event(call())
    assert [part.name for part in tmp_path.iterdir()] == ["e.jsonl"]
    assert (tmp_path / "e.jsonl").stat().st_size <= 10_000


def test_a_line_that_was_cut_off_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.on_event(call("first"))
    path.write_bytes(path.read_bytes() + b'{"v":1,"at":12')
    with EventLog(path) as log:
        log.on_event(call("second"))
    unread = Unread()
    events = [one.event for one in read_events([path], unread=unread)]
    assert [event.tool for event in events if event is not None] == ["first", "second"]
    assert unread.lines == 1


@pytest.mark.parametrize("text", ["", '{"v":1,"at":12', '{"v":1,"at":12\n', '{"', '{"v":99,"at":1.0,"new":1}\n'])
def test_a_log_without_an_event_that_can_be_read_is_an_empty_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(text)
    unread = Unread()
    assert list(read_events([tmp_path / "events.jsonl"], unread=unread)) == []
    assert unread.lines == bool(text)


@pytest.mark.parametrize(
    "text", [b'[2026-11-01] started\n{"level": "info"}\n', b'{"level": "info"}', b"\x1f\x8b\x08\0zipped"]
)
def test_a_file_of_something_else_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"events.*events\.jsonl.*none of its \d lines begins as an event"):
        list(read_events([path]))
    with EventLog(path) as log:
        log.on_event(call("first"))
    assert len(list(read_events([path]))) == 1, "one event is enough"


class Full(io.FileIO):
    """A disk that takes half a line, once, and says that it is full."""

    failures: Iterator[bool] = iter(())

    def write(self, data: Any) -> int:
        if next(self.failures, False):
            super().write(bytes(data)[:7])
            raise OSError(errno.ENOSPC, "full")
        return super().write(bytes(data)[:5])  # and never more than a little at a time


def test_a_full_disk_is_told_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Full, "failures", iter([False] * 100 + [True]))
    monkeypatch.setattr(writing.io, "FileIO", Full)
    log = EventLog(tmp_path / "events.jsonl")
    log.on_event(call("first"))
    assert log.flush()
    for _ in range(5):
        log.on_event(call("lost"))
    assert not log.flush()
    with pytest.raises(OSError, match="full"):  # the engine counts it and logs it once
        log.on_event(call("after"))
    assert log.flush()
    log.close()
    unread = Unread()
    told = [one.event.tool for one in read_events([tmp_path / "events.jsonl"], unread=unread) if one.event is not None]
    assert told[0] == "first"
    assert told[-1] == "after"
    assert unread.lost == 5


def test_what_does_not_fit_in_the_queue_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_MOST_WAITING", 3)
    monkeypatch.setattr(writing, "_PATIENCE", 60)
    log = EventLog(tmp_path / "events.jsonl")
    for _ in range(10):
        log.on_event(call())
    log.close()
    unread = Unread()
    assert len(list(read_events([log.path], unread=unread))) == 3
    assert unread.lost == 7


def test_a_child_process_has_a_file_of_its_own_or_none(tmp_path: Path) -> None:
    program = """
import os, sys
from agent_cache.events import EventLog
from agent_cache.model import CallEvent
event = CallEvent("get", "r", "hit", None, None, 1.0, 0.1, ())
log = EventLog(sys.argv[1])
log.on_event(event)
child = os.fork()
log.on_event(event)
log.close()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    for name, files, events in (("one.jsonl", 1, 2), ("own-{pid}.jsonl", 2, 3)):
        folder = tmp_path / f"files-{files}"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder / name)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        parts = list(folder.iterdir())
        assert (len(parts), sum(1 for _ in read_events(parts))) == (files, events)


def test_events_are_written_when_the_process_ends_without_a_word(tmp_path: Path) -> None:
    program = """
import sys
from agent_cache.events import EventLog
from agent_cache.model import CallEvent
EventLog(sys.argv[1]).on_event(CallEvent("get", "r", "hit", None, None, 1.0, 0.1, ()))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "e.jsonl")], timeout=60, check=True)
    assert len(list(read_events([tmp_path / "e.jsonl"]))) == 1


def test_two_logs_do_not_write_one_file(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl"), pytest.raises(ConfigurationError, match=r"\{pid\}"):
        EventLog(tmp_path / "e.jsonl")
    EventLog(tmp_path / "e.jsonl").close()


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"max_bytes": 5}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"keep": -1}, "keep"),
        ({"values": 1}, "values"),
    ],
)
def test_bad_options_name_themselves(options: dict[str, Any], parameter: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=parameter):
        EventLog(tmp_path / "e.jsonl", **options)
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="path=5: give the path of a file"):
        EventLog(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give a file that can be written"):
        EventLog(tmp_path / "none" / "e.jsonl")
    with pytest.raises(ConfigurationError, match=r"none\.jsonl"):
        list(read_events([tmp_path / "none.jsonl"]))
    with pytest.raises(ConfigurationError, match="folder"):
        list(read_events([tmp_path]))


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.close()
    log.close()
    log.on_event(call())
    assert log.flush()
    assert list(read_events([log.path])) == []
