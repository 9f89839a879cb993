"""The litmus with each rule of freshness switched on: entries expire all the time, and a write still wins."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from agent_cache.backends.base import Missing
from agent_cache.backends.memory import MemoryStore
from agent_cache.backends.memory.records import found as _found
from agent_cache.testing.adapters import AgentCacheAdapter
from agent_cache.testing.litmus import Report, main, run
from agent_cache.testing.processes.runner import Options
from agent_cache.testing.processes.runner import run as run_processes
from agent_cache.testing.rules import RULES, rules_of
from agent_cache.testing.smallscope import cancellations, one_writer, two_writers

SERVED_STALE = ("stale_while_revalidate", "stale_if_error", "soft_timeout", "all")


def _with(rule: str) -> Any:
    return partial(AgentCacheAdapter, freshness=rule)


def _right(report: Report) -> None:
    assert report.faults == 0, str(report)
    assert report.operations > 0


@pytest.mark.parametrize("rule", RULES)
def test_random_schedules(rule: str) -> None:
    report = run(range(6), 300, _with(rule))
    _right(report)
    assert report.loads < report.reads, "something was served that was not loaded for it"


@pytest.mark.parametrize("rule", RULES)
def test_a_writer_and_three_readers(rule: str) -> None:
    _right(one_writer(_with(rule), warm=True, every=67))


@pytest.mark.parametrize("rule", ["stale_while_revalidate", "revalidate", "all"])
def test_two_writers_and_cancellations(rule: str) -> None:
    _right(two_writers(_with(rule), ends="no_effect", warm=True, every=61))
    _right(cancellations(_with(rule), every=13))


@pytest.mark.parametrize("rule", SERVED_STALE)
def test_the_litmus_would_tell_if_what_a_write_dropped_were_served(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = MemoryStore.lookup

    def careless(self: MemoryStore, key: Any, tags: Any, codec: Any) -> Any:
        found = lookup(self, key, tags, codec)
        entry = self._entries.get(key) if key is not None else None
        if isinstance(found, Missing) and found.why == "stale" and entry is not None:
            found.kept = _found(entry, max(self.clock(), entry.deadline), 0)
        return found

    monkeypatch.setattr(MemoryStore, "lookup", careless)
    report = run(range(60), 400, _with(rule), stop_after=2)
    assert report.violations, str(report)
    assert report.broken["C1"] + report.broken["C2"]


def test_the_command_takes_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--operations", "800", "--freshness", "stale_while_revalidate"]) == 0
    assert "violations 0" in capsys.readouterr().out


def test_an_unknown_rule_is_said() -> None:
    with pytest.raises(ValueError, match="give one of ttl"):
        rules_of("never", 1.0, 1.0)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("backend", "rule"),
    [
        ("disk://", "all"),
        ("redis://", "all"),
        *(pytest.param(b, r, marks=pytest.mark.soak) for b in ("disk://", "redis://?coherence=lease") for r in RULES),
    ],
)
def test_real_processes(backend: str, rule: str, request: pytest.FixtureRequest) -> None:
    seconds = 60.0 if request.node.get_closest_marker("soak") else 2.0
    cache = f"agent_cache+{rule}"
    report = run_processes(
        Options(backend, seconds=seconds, own=True, cache=cache, seed=3, faults=("kill",), every=0.5)
    )
    assert report.ok, str(report)
    assert report.operations > 200


@pytest.mark.soak
@pytest.mark.parametrize("rule", RULES)
def test_random_schedules_for_long(rule: str) -> None:
    _right(run(range(1_000, 1_300), 400, _with(rule)))


@pytest.mark.soak
@pytest.mark.parametrize("rule", RULES)
def test_every_order_of_one_writer(rule: str) -> None:
    _right(one_writer(_with(rule), warm=True))
