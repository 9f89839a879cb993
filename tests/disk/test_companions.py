"""What stands beside the file is deleted or replaced, while processes have it open and after one was killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache.backends.disk import companions
from tests.disk.conftest import Talk

Make = Callable[..., Talk]

_PEER = """
import sys
from typing import Any
from agent_cache.backends.base import Found, NewEntry
from agent_cache.backends.disk import DiskBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags, write_tags
C, T, W = codec_for(Any), read_tags([("cart", "42")], ()), write_tags([("cart", "42")], ())
store = DiskBackend(sys.argv[1]).sync
for line in sys.stdin:
    what, _, value = line.strip().partition(" ")
    if what == "fill":
        store.fill(store.lookup(None, T, C).token, NewEntry(b"key", C.freeze(value), None, 0.1, "g", None, ()))
        store.flush()
    elif what == "write":
        store.end(store.begin(W, "w"), unknown=False, no_effect=False)
    elif what == "close":
        store.close()
    found = store.lookup(b"key", T, C) if what != "close" else None
    print(found.stored.fresh() if isinstance(found, Found) else "-", flush=True)
"""


class Peer:
    """A process that has the file open; each word to it is answered by what it finds then."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", _PEER, str(path)]
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, words: str) -> str:
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        answer: str = self.process.stdout.readline().strip()
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def peer(path: Path) -> Iterator[Peer]:
    there = Peer(path)
    yield there
    there.end()


def _spoil(path: Path, which: tuple[str, ...], how: str) -> None:
    for suffix in which:
        file = Path(f"{path}{suffix}")
        if how == "replaced":
            copy = Path(f"{path}{suffix}.copy")
            copy.write_bytes(file.read_bytes())
            copy.replace(file)
        else:
            file.unlink()


def _aside(path: Path) -> list[str]:
    return [each.name for each in path.parent.glob("*.corrupt-*") if not each.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("which", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_who_opens_a_file_whose_log_is_another_one_does_not_part_from_the_others(
    make: Make, path: Path, peer: Peer, which: tuple[str, ...], how: str
) -> None:
    assert peer("fill old") == "old"
    _spoil(path, which, how)
    talk = make()
    talk.end(talk.begin())
    assert peer("look") == "-"
    assert talk.fill("new")
    talk.sync.flush()
    assert peer("look") == "new"
    assert peer("write") == talk.value() == "-"
    assert peer("fill theirs") == talk.value() == "theirs"
    assert len(_aside(path)) == 1


@pytest.mark.parametrize("which", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_a_new_thread_does_not_part_from_its_own_process(make: Make, path: Path, which: tuple[str, ...]) -> None:
    talk = make()
    assert talk.fill("old")
    talk.sync.flush()
    assert talk.value() == "old"
    _spoil(path, which, "deleted")
    seen: list[Any] = []

    def look() -> None:
        talk.look(b"another")  # a connection of its own
        seen.append(talk.value())
        talk.end(talk.begin())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == ["-"]
    assert talk.value() == "-"
    assert talk.fill("new")
    talk.sync.flush()
    assert make().value() == talk.value() == "new"


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_log_that_is_lost_after_a_crash_takes_the_entries_along(
    make: Make, path: Path, peer: Peer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """In the file alone is what was there before the last writes."""
    assert peer("fill old") == "old"
    before = Path(f"{path}-wal").read_bytes()
    peer("close")
    assert peer("look") == "old"  # in the file by now
    assert peer("write") == "-"
    marked = companions._marked(str(path))
    peer.end()
    if how == "replaced":
        Path(f"{path}-wal.copy").write_bytes(before)
        Path(f"{path}-wal.copy").replace(f"{path}-wal")
    else:
        Path(f"{path}-wal").unlink()
    assert marked or not hasattr(os, "setxattr")
    if marked:
        assert make().value() == "-"
        assert [each.getMessage().count("its log was deleted") for each in caplog.records if each.levelno > 20] == [1]


def test_a_crash_alone_loses_nothing(make: Make, path: Path, peer: Peer) -> None:
    assert peer("fill old") == "old"
    peer.end()
    assert make().value() == "old"
    assert not _aside(path)


def test_a_file_that_was_closed_needs_no_log(make: Make, path: Path) -> None:
    talk = make()
    for _ in range(3):
        assert talk.value() == "-" or talk.value() == "v"
        talk.fill("v")
        talk.sync.close()
        assert not Path(f"{path}-wal").exists()
        assert not companions._marked(str(path))
    assert make().value() == "v"
    assert not _aside(path)


_OPENING = """
import logging, sys
from agent_cache.backends.disk import DiskBackend
logging.basicConfig(level="WARNING")
sys.stdin.readline()
for number in range(25):
    store = DiskBackend(sys.argv[1]).sync
    store.set("k", number)
    store.get("k")
    store.close()
"""


def test_opening_and_closing_at_once_is_no_loss(path: Path) -> None:
    command = [sys.executable, "-c", _OPENING, str(path)]
    crowd = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [each.communicate(timeout=60)[1] for each in crowd]
    assert told == [""] * 4
    assert [each.returncode for each in crowd] == [0] * 4
    assert not _aside(path)


def test_the_pauses_are_for_who_is_just_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = ["its log was deleted", "its log was deleted", ""]
    monkeypatch.setattr(companions, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(companions, "_lost", lambda _path: answers.pop(0))
    assert companions.lost(str(path)) == ""
    assert not answers
