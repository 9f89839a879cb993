"""On the recorded sessions the simulation says what ideal caches of each policy do, to the call."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent_cache.simulate import Options, Rules, simulate

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text("utf-8"))
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "session, no invalidation": ("isolated", {"scope": "session", "drops": "nothing"}),
    "session, resource": ("isolated", {"scope": "session", "drops": "resource"}),
    "session, entity": ("isolated", {"scope": "session", "drops": "entity"}),
    "global, no invalidation": ("inter", {"drops": "nothing"}),
    "global, flush on write": ("inter", {"drops": "everything"}),
    "global, resource": ("inter", {"drops": "resource"}),
    "global, entity": ("inter", {"drops": "entity"}),
    "global, entity, successful writes only": ("inter", {"drops": "entity", "refused_writes": "keep"}),
    "isolated worlds, shared by write lineage": ("isolated", {"scope": "lineage"}),
}
QUICK = Options(detect_loops=False)


@pytest.mark.parametrize("dataset", EXPECTED)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_the_hits_of_an_ideal_cache(dataset: str, policy: str) -> None:
    worlds, rules = POLICIES[policy]
    report = simulate([DATA / f"{dataset}.{worlds}.jsonl.gz"], Rules(**rules), QUICK)
    found = {"reads": report.reads, "hits": report.total.hits, "stale": report.total.stale}
    assert found == EXPECTED[dataset][policy]


@pytest.mark.parametrize("dataset", EXPECTED)
def test_beside_it_stand_a_ttl_only_cache_and_the_best_there_could_be(dataset: str) -> None:
    total = simulate([DATA / f"{dataset}.inter.jsonl.gz"], Rules(), QUICK).total
    ideal = EXPECTED[dataset]
    assert (total.ttl_hits, total.ttl_stale) == (
        ideal["global, no invalidation"]["hits"],
        ideal["global, no invalidation"]["stale"],
    )
    assert total.best == ideal["global, oracle"]["hits"]


def test_patterns_that_fit_no_call_are_named(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        "".join(f'{{"tool": "{tool}", "args": {{}}, "result": 1, "session": "s"}}\n' for tool in ("get", "put"))
    )
    notes = simulate([trace], Rules.from_flags(["get:x", "fetch_*:x"], ["p*:x"])).notes
    assert "No call fits 'fetch_*'; the tools of the trace are get, put." in notes
    assert not any("No call fits" in note for note in simulate([trace], Rules.from_flags(["get:x"], ["p*:x"])).notes)


def test_a_policy_given_by_flags_counts_as_the_recorded_one(tmp_path: Path) -> None:
    source = DATA / "tau1_airline_gpt4o.inter.jsonl.gz"
    rules = Rules.from_flags(
        ["get_reservation_details:reservations:{reservation_id}", "get_user_details:users:{user_id}"],
        ["*_reservation*:reservations:{reservation_id}", "*_reservation*:users:{user_id}", "send_*:users:{user_id}"],
    )
    report = simulate([source], rules)
    assert report.tools["get_reservation_details"].kind == "read"
    assert report.tools["get_reservation_details"].stale == 0
    assert report.tools["calculate"].kind == "unknown"
    assert any("No policy names" in note for note in report.notes)
    plain = tmp_path / "plain.jsonl"
    with gzip.open(source) as packed, plain.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    assert simulate([plain], rules).as_dict() | {"files": []} == report.as_dict() | {"files": []}


def test_the_loops_found_name_session_step_and_what_came_after() -> None:
    report = simulate([DATA / "tau1_airline_gpt4o.isolated.jsonl.gz"], Rules())
    assert report.loop_count == len(report.loops)
    for loop in report.loops:
        assert loop.step > 5
        assert loop.calls_after >= 1
        assert loop.tool in report.tools
