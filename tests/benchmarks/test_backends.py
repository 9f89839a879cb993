"""The benchmark of the backends runs and says what it measured. What the figures are is nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_cache.testing.servers import ServerNotFoundError, find_server

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "backends.py"


def run(*arguments: str, hide: tuple[str, ...] = (), folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own; modules named in ``hide`` cannot be imported there."""
    environment = dict(os.environ)
    if folder is not None:
        for name in hide:
            (folder / f"{name}.py").write_text("raise ImportError('hidden')\n", "utf-8")
        environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def rows_of(*sections: str, **how: Any) -> list[dict[str, Any]]:
    done = run("--quick", "--rounds", "2", "--json", "-", "--only", *sections, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def test_disk_sections_have_a_row_for_everybody() -> None:
    rows = rows_of("disk_hit", "disk_invalidate")
    measured = {row["name"]: row for row in rows if row["ratio"]}
    expected = {"bare sqlite3 SELECT", "decorated, DiskBackend", "decorated, memory before disk", "DiskBackend.lookup"}
    assert expected | {"two bare FULL commits", "decorated write, DiskBackend"} <= set(measured)
    for row in measured.values():
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert bool(row["goal"]) == bool(row["verdict"])
    remarks = [row["remark"] for row in rows if row["name"].startswith("decorated")]
    assert not any("NOT" in remark for remark in remarks)


def test_a_missing_rival_is_said_to_be_missing(tmp_path: Path) -> None:
    rows = rows_of("disk_invalidate", hide=("diskcache",), folder=tmp_path)
    said = {row["name"]: row["remark"] for row in rows}
    assert said["diskcache"] == "missing (pip install diskcache)"
    assert "decorated write, DiskBackend" in said


def test_round_trips_are_counted() -> None:
    pytest.importorskip("redis")
    try:
        find_server()
    except ServerNotFoundError as error:
        pytest.skip(str(error))
    rows = rows_of("round_trips")
    counts = {(row["case"].rpartition(", ")[2], row["name"]): row["ratio"]["median"] for row in rows}
    assert counts["RedisBackend", "hit"] == 1
    assert counts["strict", "hit"] == 1
    assert counts["lease", "hit"] == 0
    assert counts["RedisBackend", "write"] == 2


def test_tables_name_goals_and_verdicts() -> None:
    done = run("--quick", "--rounds", "2", "--only", "disk_hit")
    assert done.returncode == 0, done.stderr
    assert "x bare SELECT" in done.stdout
    assert "<= 1.2" in done.stdout
