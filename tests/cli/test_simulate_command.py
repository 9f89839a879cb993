"""``agent-cache simulate``: the library's figures, shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]
CALLS = [
    {"session": "a", "tool": "get_user", "args": {"user_id": 7}, "result": {"name": "Mia"}, "seconds": 0.8},
    {"session": "b<script>", "tool": "get_user", "args": {"user_id": 7}, "result": {"name": "Mia"}, "seconds": 0.7},
    {"session": "a", "tool": "update_user", "args": {"user_id": 7, "name": "Ada"}, "result": "ok"},
    {"session": "a", "tool": "get_user", "args": {"user_id": 7}, "result": {"name": "Ada"}, "seconds": 0.8},
]
FLAGS = ["--read", "get_*:user:{user_id}", "--write", "update_*:user:{user_id}"]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "<b>calls.jsonl"
    file.write_text("\n".join(map(json.dumps, CALLS)))
    return str(file)


def test_flags_and_a_file_say_the_same(run: Run, trace: str, tmp_path: Path) -> None:
    found = json.loads(run("simulate", trace, *FLAGS, "--json").stdout)
    assert (found["reads"], found["total"]["hits"], found["total"]["ttl_stale"], found["total"]["saved"]) == (
        3,
        1,
        1,
        0.7,
    )
    policy = tmp_path / "p.toml"
    policy.write_text(
        '[tools."get_*"]\nkind = "read"\nresource = "user:{user_id}"\n'
        '[tools."update_*"]\nkind = "write"\nresource = "user:{user_id}"\n'
    )
    assert json.loads(run("simulate", trace, "--policy", str(policy), "--json").stdout)["total"] == found["total"]
    text = run("simulate", trace, *FLAGS).stdout
    assert "1 of 3 reads" in text
    assert "1 wrong answers" in text


def test_drops_nothing_is_a_cache_with_a_ttl(run: Run, trace: str) -> None:
    found = json.loads(run("simulate", trace, *FLAGS, "--drops", "nothing", "--no-loops", "--json").stdout)
    assert (found["total"]["hits"], found["total"]["stale"]) == (2, 1)


def test_a_proposal(run: Run, trace: str) -> None:
    found = json.loads(run("simulate", trace, "--suggest", "--json").stdout)
    assert {one["tool"]: one["kind"] for one in found["suggested"]} == {"get_user": "read", "update_user": "write"}
    assert "[tools." in found["toml"]
    assert "get_user" in run("simulate", trace, "--suggest").stdout


def test_a_page(run: Run, trace: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("simulate", trace, "--suggest", "--html", str(page))
    text = page.read_text("utf-8")
    assert "get_user" in text
    assert "&lt;b&gt;calls" in text
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "prefers-color-scheme" in text


def test_bad_input(run: Run, trace: str, tmp_path: Path) -> None:
    run("simulate", code=2)
    run("simulate", str(tmp_path / "none"), code=3)
    assert "TOOL:RESOURCE" in run("simulate", trace, "--read", "nonsense", code=2).stderr
    run("simulate", trace, *FLAGS, "--suggest", code=2)
    run("simulate", "-", "--suggest", code=2)
    run("simulate", trace, "--ttl", "soon", code=2)


def test_standard_input(run: Run, trace: str) -> None:
    program = [sys.executable, "-m", "agent_cache.cli", "simulate", "-", *FLAGS, "--json"]
    text = Path(trace).read_text("utf-8")
    done = subprocess.run(program, input=text, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["total"]["hits"] == 1
