"""Where output goes: pipes that end early, encodings that cannot say it, terminals that would act upon it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HOSTILE = "zz\x9b31m\x7f\u202e\U000e0001ä"
LINES = [["ls"], ["ls", "--json"], ["report", "--out", "-"]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """One kind of store will do: what is printed does not depend on it."""
    return f"disk://{tmp_path}/cache.db"


def _program(store: str, line: list[str], after: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell would do: ``agent-cache <line> <after>``; its exit code is the program's."""
    command = f"{sys.executable} -m agent_cache.cli {' '.join(line)} {after}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        timeout=120,
        env={**os.environ, "AGENT_CACHE_URL": store, **environment},
        check=False,
    )


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("after", ["| true", ">&-"])
def test_nobody_reading_on_is_no_failure(filled: str, line: list[str], after: str) -> None:
    done = _program(filled, line, after)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_said(filled: str) -> None:
    done = _program(filled, ["ls"], "> /dev/full")
    assert done.returncode == 3
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("line", LINES)
def test_every_encoding_will_do(filled: str, line: list[str], encoding: str) -> None:
    done = _program(filled, line, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    if "--json" in line:
        json.loads(done.stdout.decode(encoding))
    if line[0] == "report":
        assert "\u2013" in done.stdout.decode("utf-8")  # as the head of the page says


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_sends_nothing_that_a_terminal_would_act_upon(filled: str, encoding: str) -> None:
    done = _program(filled, ["invalidate", "--dry-run", "--json", f"'{HOSTILE}'"], PYTHONIOENCODING=encoding)
    text = done.stdout.decode(encoding)
    assert json.loads(text)["tag"] == HOSTILE
    assert all(char.isprintable() or char == "\n" for char in text)
    assert ("ä" in text) == (encoding == "utf-8")


def test_what_is_no_text_is_still_json(run: Run, filled: str) -> None:
    """An argument that is no UTF-8 comes as half a surrogate pair."""
    printed = run("invalidate", "--dry-run", "--json", "a\udcff", "--url", filled).stdout
    assert json.loads(printed)["tag"] == "a\udcff"
