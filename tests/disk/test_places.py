"""Where the file is: behind links, where something else stands, beside somebody who reads without end."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_cache import BackendError, ConfigurationError
from agent_cache.backends.disk import DiskBackend, room, store
from tests.disk.conftest import Talk

Make = Callable[..., Talk]


def test_what_is_no_file_is_told_and_left_alone(make: Make, path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(BackendError, match="it is a device, a pipe or a socket"):
        make().sync.set("k", 1)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_name_that_no_file_can_have_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file can be called that"):
        DiskBackend(f"{tmp_path}/\ud800.db")
    DiskBackend(f"{tmp_path}/\udcff.db").sync.close()  # bytes that are no text are another matter


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a file that is not there yet."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "cache.db"
    link.symlink_to(tmp_path / "real.db")
    return link


def test_a_file_behind_a_link_is_the_file(make: Make, link: Path, tmp_path: Path) -> None:
    talk, direct = make(path=link), make(path=tmp_path / "real.db")
    assert talk.fill("v")
    talk.sync.flush()
    assert direct.value() == "v"
    direct.end(direct.begin())
    assert talk.value() == "-"
    assert link.is_symlink()
    assert [each.name for each in link.parent.iterdir()] == [link.name]


def test_the_log_of_a_file_behind_a_link_is_bounded(make: Make, link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LOG_BYTES", 64 * 1024)
    talk = make(path=link, max_bytes=200_000)
    for number in range(100):
        talk.sync.set(str(number % 5), os.urandom(20_000))
    assert Path(f"{link.resolve()}-wal").stat().st_size < 600_000


def test_a_damaged_file_behind_a_link_is_set_aside_where_it_is(make: Make, link: Path) -> None:
    link.resolve().write_bytes(b"garbage" * 1000)
    talk = make(path=link)
    talk.sync.set("k", 1)
    assert talk.sync.get("k") == 1
    assert link.is_symlink()
    assert [each.read_bytes()[:7] for each in link.resolve().parent.glob("*.corrupt-*")] == [b"garbage"]


def test_a_link_that_leads_elsewhere_by_now_is_followed(make: Make, link: Path, tmp_path: Path) -> None:
    talk, other = make(path=link), make(path=link)
    assert talk.fill("v")
    talk.sync.flush()
    assert other.value() == "v"
    link.unlink()
    link.symlink_to(tmp_path / "another.db")
    assert talk.value() == other.value() == "-"
    assert other.fill("w")
    other.sync.flush()
    assert talk.value() == "w"
    assert Path(f"{tmp_path}/another.db-wal").exists()


def test_somebody_who_reads_without_end_costs_what_is_stored_and_no_room(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "_LOG_BYTES", 32 * 1024)
    monkeypatch.setattr(room, "LOG_LIMIT", 512 * 1024)
    monkeypatch.setattr(store, "_CUT_AGAIN", 0.0)
    talk = make()
    assert talk.fill("v")
    talk.sync.flush()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM tags").fetchall()
    for number in range(100):
        assert talk.fill(os.urandom(20_000), key=b"%d" % number)
        talk.sync.flush()
    assert talk.sync.stats()["dropped_fills"] > 50
    assert Path(f"{path}-wal").stat().st_size < 1_000_000
    assert talk.value() == "v"
    talk.end(talk.begin())  # a write is delivered all the same
    assert talk.value() == "-"
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage().count("while somebody reads from it") for record in told] == [1]
    reader.close()
    talk.sync.flush()  # looks whether it is so still
    assert talk.fill("w")
    talk.sync.flush()
    assert make().value() == "w"


def test_nobody_is_waited_for_to_cut_the_log_off(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes would wait as long."""
    monkeypatch.setattr(room, "_LOG_BYTES", 0)
    talk = make()
    talk.sync.set("k", 1)
    done: list[str] = []
    db = sqlite3.connect(path, isolation_level=None, timeout=7)
    db.set_trace_callback(done.append)
    room.shrink(db, str(path))
    cut = done.index("PRAGMA wal_checkpoint(TRUNCATE)")
    assert done[cut - 1] == "PRAGMA busy_timeout=0"
    assert db.execute("PRAGMA busy_timeout").fetchone()[0] == 7_000
    db.close()


def test_each_time_that_nothing_can_be_stored_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    talk = make()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(talk.sync, "full", lambda: BackendError("no room"))
            for number in range(3):
                assert talk.fill("v", key=b"%d" % number)
                talk.sync.flush()
        assert talk.fill("v")
        talk.sync.flush()
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["no room; 1 results were not kept"] * 2
