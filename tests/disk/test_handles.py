"""Connections close themselves when whoever had them is dropped."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agent_cache.backends.disk import files
from tests.disk.conftest import Talk

_DROPPED = """
import gc, os, sys, threading
from agent_cache.backends.disk import DiskBackend

def once():
    store = DiskBackend(sys.argv[1]).sync
    store.set("k", 1)
    threads = [threading.Thread(target=lambda: store.get("k")) for _ in range(2)]
    for each in threads:
        each.start()
        each.join()
    assert store.get("k") == 1
    store._writer.stop(20)  # as it does by itself when there is nothing to do; nothing is closed by it but its own
    store._writer._open()

def files():
    return {os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if each.isdigit()
            and os.path.islink(f"/proc/self/fd/{each}")}

for _ in range(3):
    once()
    gc.collect()
    assert sys.platform != "linux" or not [name for name in files() if "cache.db" in name], files()
left_open = DiskBackend(sys.argv[1]).sync
left_open.set("k", 2)
left_open.get("k")
"""


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each connection was closed when it was freed."""
    told: list[bool] = []

    class Connection(sqlite3.Connection):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

        def __del__(self) -> None:
            told.append(self.closed)

    connect = sqlite3.connect

    def connecting(*given: Any, **how: Any) -> sqlite3.Connection:
        return connect(*given, factory=Connection, **how)

    monkeypatch.setattr(sqlite3, "connect", connecting)
    return told


def test_a_dropped_backend_closes_its_file_before_anything_of_it_is_freed(path: Path, freed: list[bool]) -> None:
    def once() -> None:
        from agent_cache.backends.disk import DiskBackend

        talk = Talk(DiskBackend(path))
        talk.sync.set("k", 1)
        assert talk.sync.get("k") == 1
        talk.sync._writer.stop(20)
        talk.sync._writer._open()

    gc.collect()
    freed.clear()
    once()
    gc.collect()
    assert len(freed) >= 3
    assert all(freed)


def test_nothing_is_left_open_or_warned_of(path: Path) -> None:
    """Python 3.13 warns of a database that is freed while it is open."""
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", _DROPPED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_handle_is_closed_once_whoever_comes_first(path: Path, freed: list[bool]) -> None:
    db = sqlite3.connect(path)
    handle = files.Handle(db, (0, 1))
    threads = [threading.Thread(target=handle.close) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert handle.pid == -1
    assert not files._is_open_here((0, 1))
    del handle, db
    gc.collect()
    assert freed[-1:] == [True]


def test_a_child_closes_nothing_of_its_parents(path: Path, freed: list[bool]) -> None:
    """Not even what is dropped there before it was told that it is a child."""
    db = sqlite3.connect(path)
    handle = files.Handle(db, (0, 1))
    files._open[handle._number].pid = handle.pid = os.getpid() + 1
    del handle
    db.execute("SELECT 1").fetchall()  # raises where it is closed
    del db
    gc.collect()
    assert not freed
