"""``agent-cache report``: from a store, from files of events, from both, into a file or a pipe."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent_cache.events import EventLog
from agent_cache.events.lines import lost_line
from agent_cache.model import CallEvent, InvalidationEvent
from tests.cli.conftest import Run
from tests.pages.conftest import read_page


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Three reads of today, one of which a write had dropped, and one of last month."""
    path = tmp_path / "events.jsonl"
    moments = [time.time() - 30 * 86_400, *[time.time()] * 4]
    with EventLog(path, now=lambda: moments.pop(0)) as log:
        for _ in range(3):
            log.on_event(
                CallEvent("get_user", "user:{id}", "hit", None, "s", 2.0, 0.01, (), seconds_saved=1.5, cost_saved=0.25)
            )
        log.on_event(InvalidationEvent("set_user", (), "global", "s", resource="user:{id}"))
        log.on_event(CallEvent("get_user", "user:{id}", "stale", None, "s", None, 0.5, (), dropped_by="set_user"))
    return path


def test_of_a_store(run: Run, filled: str, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run("report", "--url", filled, "--out", str(out), "--currency", "USD")
    assert "40.0% of 5 reads hit" in done.stdout
    words = " ".join(read_page(out.read_text("utf-8")).text.split())
    assert "2 of 5 reads" in words
    assert "1.00 USD" in words
    assert "add_item" in words


def test_of_events(run: Run, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_CACHE_URL", raising=False)
    out = tmp_path / "page.html"
    done = run("report", "--events", str(events), "--out", str(out), "--json", "--title", "A <b>title</b>")
    told = json.loads(done.stdout)
    assert (told["total"]["hits"], told["total"]["misses"], told["total"]["seconds_saved"]) == (2, 1, 3.0)
    assert told["drops"][0]["by"] == "set_user"
    assert told["drops"][0]["reads"] == {"get_user": 1}
    assert read_page(out.read_text("utf-8")).all("h1")[0].text == "A <b>title</b>"
    longer = json.loads(run("report", "--events", str(events), "--out", str(out), "--json", "--since", "60d").stdout)
    assert longer["total"]["hits"] == 3


def test_of_both(run: Run, filled: str, events: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    told = json.loads(run("report", "--url", filled, "--events", str(events), "--out", str(out), "--json").stdout)
    assert told["total"]["hits"] == 2, "the store's"
    assert {drop["by"] for drop in told["drops"]} == {"set_user"}, "the events'"
    assert len(told["sources"]) == 2


def test_an_empty_store_leaves_it_to_the_events(run: Run, events: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    url = f"disk://{tmp_path}/empty.db"
    (tmp_path / "empty.db").touch()
    told = json.loads(run("report", "--url", url, "--events", str(events), "--out", str(out), "--json").stdout)
    assert told["total"]["hits"] == 2


def test_into_a_pipe(run: Run, events: Path) -> None:
    done = run("report", "--events", str(events), "--out", "-")
    assert done.stdout.startswith("<!doctype html>")
    assert "2 of 3 reads" in " ".join(read_page(done.stdout).text.split())


def test_what_could_not_be_read_is_said(run: Run, events: Path) -> None:
    with events.open("a") as file:
        file.write("nonsense\n" + lost_line(time.time(), 7) + "\n")
    done = run("report", "--events", str(events), "--out", "-")
    assert "1 line could not be read" in done.stdout
    assert "7 events had not been written" in done.stdout


def test_what_is_wrong_is_named(run: Run, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_CACHE_URL", raising=False)
    assert "AGENT_CACHE_URL" in run("report", code=2).output
    assert "none.jsonl" in run("report", "--events", str(tmp_path / "none.jsonl"), code=2).output
    assert "--out" in run("report", "--events", str(events), "--out", "-", "--json", code=2).output
    assert "'soon'" in run("report", "--events", str(events), "--since", "soon", code=2).output
    run("report", "--events", str(events), "--out", str(tmp_path / "no" / "page.html"), code=3)
