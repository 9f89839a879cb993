"""The file: damaged, replaced, copied, deleted, read-only, full; its permissions and its size."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import BackendError, ConfigurationError
from agent_cache.backends.base import Missing
from agent_cache.backends.disk import DiskBackend
from agent_cache.testing import FakeClock
from tests.disk.conftest import CART, CODEC, KEY, WRITE, Talk

Make = Callable[..., Talk]


def in_a_process(program: str, *arguments: object) -> str:
    """Run ``program`` by itself; what it printed."""
    text = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_does_not_import_sqlite3() -> None:
    assert in_a_process("import sys, agent_cache; print('sqlite3' in sys.modules)") == "False"


def test_files_are_the_owners_only(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cache.db"
    talk = make(path=path)
    talk.sync.set("k", 1)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    names = sorted(p.name for p in path.parent.iterdir())
    assert {"cache.db", "cache.db-wal", "cache.db-shm"} <= set(names)
    for name in names:
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize("how", [{"labels": False}, {"secret": "s3cret"}])
def test_no_arguments_or_names_in_the_file(make: Make, path: Path, how: dict[str, Any]) -> None:
    """Without labels, and with a secret unless they are asked for."""
    talk = make(**how)
    tags = [("any", ("user", "alice-in-chains"), ("secret-cart",))]
    assert talk.fill("the payload", tags=tuple(tags), group="secret_tool", chain=("user", "alice-in-chains"))
    talk.sync.move(tags, "writer")
    talk.sync.close()
    raw = path.read_bytes()
    assert b"the payload" in raw
    for text in (b"alice", b"secret-cart", b"secret_tool"):
        assert text not in raw


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\0" * 200, b"\0" * 5000])
def test_what_is_not_a_cache_is_replaced(
    make: Make, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    talk = make()
    talk.sync.set("k", 1)
    assert talk.sync.get("k") == 1
    aside = [p for p in path.parent.iterdir() if ".corrupt-" in p.name]
    assert len(aside) == (1 if content else 0)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == len(aside)
    if aside:
        assert aside[0].read_bytes() == content


def test_another_programs_database_is_left_alone(make: Make, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (a)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        make().sync.get("k")
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_replaced(make: Make, path: Path, kept: float) -> None:
    first = make()
    first.sync.set_many({str(number): "x" * 2000 for number in range(200)})
    first.sync.close()
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * kept))
    talk = make()
    for number in range(200):
        try:
            assert talk.sync.get(str(number), "-") in ("x" * 2000, "-")
            talk.sync.set(str(number), "y")
        except BackendError:
            pass
    talk.sync.set("k", 1)
    assert talk.sync.get("k") == 1


def test_a_file_that_rots_while_open_is_never_an_sqlite_error(make: Make, path: Path) -> None:
    talk = make()
    talk.sync.set_many({str(number): "x" * 2000 for number in range(500)})
    talk.sync.close()
    size = path.stat().st_size
    talk.sync.get("1")
    with path.open("r+b") as file:  # every page but the first
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    for number in range(500):
        try:
            assert talk.sync.get(str(number), "-") in ("x" * 2000, "-")
            talk.look()
        except BackendError:
            pass
    talk.sync.end(talk.begin(), unknown=False, no_effect=False)
    assert talk.fill("v")
    assert talk.value() == "v"


def test_a_newer_schema_is_set_aside(make: Make, path: Path) -> None:
    first = make()
    first.sync.set("k", 1)
    first.sync.close()
    raw = bytearray(path.read_bytes())
    raw[60] = 9
    path.write_bytes(raw)
    assert make().sync.get("k", "-") == "-"
    assert [p for p in path.parent.iterdir() if ".corrupt-" in p.name]


def test_a_deleted_file_is_made_anew(make: Make, path: Path) -> None:
    talk = make()
    assert talk.fill("v")
    talk.sync.flush()
    token = talk.look(None).token
    path.unlink()
    assert talk.value() == "-"
    assert not talk.fill("v", token)
    assert talk.fill("w")
    talk.sync.flush()
    assert make().value() == "w"


def test_a_file_replaced_by_an_older_copy_of_itself(make: Make, path: Path) -> None:
    talk, other = make(), make()
    assert talk.fill("old")
    talk.sync.flush()
    with sqlite3.connect(path) as source, sqlite3.connect(path.parent / "copy") as target:
        source.backup(target)
    source.close()
    target.close()
    talk.sync.move(WRITE, "w")
    assert talk.value() == other.value() == "-"
    (path.parent / "copy").replace(path)
    assert talk.value() == other.value() == "-"
    assert talk.fill("new")
    talk.sync.flush()
    assert other.value() == "new"


@pytest.mark.parametrize("same_place", [False, True])
def test_a_backup_put_back_while_closed_is_a_flush(make: Make, path: Path, same_place: bool) -> None:
    talk = make()
    assert talk.fill("old")
    talk.sync.close()
    shutil.copyfile(path, path.parent / "copy")
    talk.sync.move(WRITE, "w")
    talk.sync.close()
    if same_place:
        path.unlink()
        shutil.copyfile(path.parent / "copy", path)  # may well get the very inode that was freed
    else:
        (path.parent / "copy").replace(path)
    assert make().value() == "-"


def test_a_window_survives_the_replacement_of_its_file(make: Make, path: Path) -> None:
    talk, other = make(), make()
    window = talk.begin()
    path.unlink()
    assert other.fill("loaded inside the window")
    other.sync.flush()
    talk.end(window)
    assert other.value() == "-"
    assert talk.value() == "-"


def test_entries_and_ttl_outlive_closing(make: Make, clock: FakeClock, wall: FakeClock) -> None:
    talk = make()
    assert talk.fill("kept")
    assert talk.fill("short", key=b"short", ttl=10)
    talk.sync.close()
    assert talk.value() == "kept"  # usable again
    talk.sync.close()
    clock.advance(9)
    wall.advance(9)
    assert make().value(b"short") == "short"
    clock.advance(2)
    assert make().value(b"short") == "-"


def test_after_a_restart_of_the_machine_the_wall_clock_decides(path: Path, wall: FakeClock) -> None:
    for passed, expected in ((5, "v"), (20, "-")):
        first = Talk(DiskBackend(path, clock=FakeClock(50_000), wall=wall))
        assert first.fill("v", ttl=10)
        first.sync.close()
        wall.advance(passed)
        second = Talk(DiskBackend(path, clock=FakeClock(1), wall=wall))
        second.sync._set_boot(b"another!")
        assert second.value() == expected
        second.sync.close()


def test_a_directory_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="it is a directory"):
        make(path=tmp_path).sync.get("k")


_NOBODY = """
import asyncio, os, sys
from agent_cache import BackendError
from agent_cache.backends.disk import DiskBackend
path = sys.argv[1]
backend = DiskBackend(path)
if os.getuid() == 0:
    os.setuid(65534)
for work in (lambda: backend.sync.set("k", 1), lambda: backend.sync.begin((("any", (), ("a",)),), "w")):
    try:
        work()
    except BackendError as error:
        assert path in str(error) and "writable" in str(error), error
    else:
        raise SystemExit("no error")
print("told")
"""


def test_a_read_only_place_is_told_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    folder.chmod(0o555)
    assert in_a_process(_NOBODY, folder / "cache.db") == "told"


_FULL = """
import resource, sys
from typing import Any
from agent_cache import BackendError
from agent_cache.backends.base import NewEntry
from agent_cache.backends.disk import DiskBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags, write_tags
import logging; logging.disable()
import random
C, T, W = codec_for(Any), read_tags([("a",)], ()), write_tags([("a",)], ())
backend = DiskBackend(sys.argv[1]).sync
def fill(n):
    found = backend.lookup(None, T, C)
    entry = NewEntry(b"%d" % n, C.freeze(random.randbytes(3000)), None, 0.1, "g", None, ())
    return hasattr(found, "token") and backend.fill(found.token, entry)
assert fill(0)
backend.flush()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
told = 0
for n in range(300):
    try:
        fill(n)
        if n % 50 == 49:
            backend.flush()
            w = backend.begin(W, "w")
            backend.end(w, unknown=False, no_effect=False)
    except BackendError as error:
        assert "disk" in str(error) and sys.argv[1] in str(error), error
        told += 1
dropped = backend.stats()["dropped_fills"]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
w = backend.begin(W, "w")
backend.end(w, unknown=False, no_effect=False)
backend.flush()
assert fill(7)
backend.flush()
from agent_cache.backends.base import Found
assert isinstance(backend.lookup(b"7", T, C), Found)
print(told > 0, dropped > 0)
"""


def test_a_full_disk_is_told_and_recovers(path: Path) -> None:
    assert in_a_process(_FULL, path) == "True True"


def test_max_bytes_bounds_the_file(make: Make, path: Path) -> None:
    talk = make(max_bytes=1_000_000)
    for number in range(3_000):
        while not talk.fill(os.urandom((number % 13) * 500), key=b"%d" % number):
            talk.sync.flush()
    talk.sync.flush()
    stats = talk.sync.stats()
    assert stats["evictions"] > 1_000
    assert stats["bytes"] <= 1_000_000
    for _ in range(5):
        talk.sync.flush()
    talk.sync.close()
    assert path.stat().st_size < 2_000_000
    assert talk.value(b"2999") != "-"


def test_the_log_is_bounded(make: Make, path: Path) -> None:
    talk = make(max_bytes=3_000_000)
    for number in range(4_000):
        while not talk.fill(os.urandom(6_000), key=b"%d" % (number % 300)):
            talk.sync.flush()
    talk.sync.flush()
    assert Path(f"{path}-wal").stat().st_size < 20_000_000


def test_a_used_entry_outlives_unused_ones(make: Make) -> None:
    talk = make(max_bytes=100_000)
    talk.sync.set("used", "v")
    for number in range(300):
        assert talk.sync.get("used") == "v"
        talk.sync.set(str(number), "x" * 1000)
    assert talk.sync.get("0", "-") == "-"


def test_expired_entries_are_swept(make: Make, clock: FakeClock, wall: FakeClock) -> None:
    talk = make()
    talk.sync.set_many({str(number): 1 for number in range(50)}, ttl=10)
    talk.sync.set("stays", 1)
    clock.advance(11)
    wall.advance(11)
    talk.sync._do(talk.sync.upkeep_job())
    assert talk.sync.stats()["entries"] == 1


def _tamper(path: Path, sql: str, *parameters: object) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(sql, parameters)
    db.close()


def test_a_forged_or_swapped_entry_is_a_miss(make: Make, path: Path) -> None:
    talk = make(secret="s")
    assert talk.fill("a", key=b"a")
    assert talk.fill("b", key=b"b")
    talk.sync.flush()
    assert talk.value(b"a") == "a"
    _tamper(
        path,
        "UPDATE entries SET payload=(SELECT payload FROM entries WHERE key=?), seal="
        "(SELECT seal FROM entries WHERE key=?) WHERE key=?",
        b"tb",
        b"tb",
        b"ta",
    )
    assert talk.value(b"a") == "-"
    assert talk.sync.stats()["forged"] == 1
    _tamper(path, "UPDATE entries SET deadline=1e12 WHERE key=?", b"tb")
    assert talk.value(b"b") == "-"


@pytest.mark.parametrize("payload", [b"", b"J1234{}", None, 7, "text"])
def test_a_payload_that_does_not_decode_is_a_miss(make: Make, path: Path, payload: object) -> None:
    talk = make()
    assert talk.fill("a")
    talk.sync.flush()
    if payload is None:
        _tamper(path, "UPDATE entries SET payload=zeroblob(70000000)")
    else:
        _tamper(path, "UPDATE entries SET payload=?", payload)
    assert talk.value() == "-"
    assert talk.sync.stats()["undecodable"] == 1


def test_nothing_blocking_runs_on_the_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from agent_cache.backends.base import NewEntry
    from agent_cache.backends.disk.writer import Writer

    writes: list[str] = []
    for name in ("_transact", "_flush", "_open", "_tidy"):
        original = getattr(Writer, name)

        def spy(self: Writer, *args: object, original: object = original, **kwargs: object) -> object:
            writes.append(threading.current_thread().name)
            return original(self, *args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(Writer, name, spy)

    async def work() -> None:
        async with DiskBackend(path) as backend:
            found = await backend.lookup(KEY, CART, CODEC)
            assert isinstance(found, Missing)
            await backend.fill(found.token, NewEntry(KEY, CODEC.freeze(1), None, 0.1, "g", None, ()))
            await backend.end(await backend.begin(WRITE, "w"), unknown=False, no_effect=False)
            await backend.set("k", 1)
            await backend.flush()

    asyncio.run(work())
    assert set(writes) == {"agent_cache disk writer"}
