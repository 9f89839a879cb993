"""The recorded traffic, replayed through decorated tools: nothing stale, as many hits as an ideal cache."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent_cache.testing.servers import RedisServer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DATA = BENCHMARKS / "data"


def load_replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agent_cache_benchmarks_replay", BENCHMARKS / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


replay: Any = load_replay()
POLICIES = {policy.name: policy for policy in replay.POLICIES}
CASES = [(dataset, name) for dataset in replay.DATASETS for name in POLICIES]


@pytest.mark.parametrize(("dataset", "name"), CASES)
def test_policy_serves_what_an_ideal_cache_would(dataset: str, name: str) -> None:
    (row,) = replay.run(DATA, [POLICIES[name]], [dataset])
    assert row.problems == ()
    assert row.reads > 0
    assert abs(row.difference_pp) <= replay.TOLERANCE_PP
    if POLICIES[name].must_be_fresh:
        assert row.stale == 0


@pytest.mark.parametrize("dataset", replay.DATASETS)
def test_worlds_of_their_own_share_as_much_on_redis(dataset: str, redis_server: RedisServer) -> None:
    policy = POLICIES["isolated worlds, shared by write lineage"]
    (row,) = replay.run(DATA, [policy], [dataset], url=redis_server.url)
    assert row.problems == ()
    assert (row.stale, row.hits) == (0, row.expected_hits)


@pytest.mark.parametrize("dataset", replay.DATASETS)
def test_refused_and_told_writes_save_as_much_on_redis(dataset: str, redis_server: RedisServer) -> None:
    policy = POLICIES["global, entity, successful writes only"]
    (row,) = replay.run(DATA, [policy], [dataset], url=redis_server.url)
    assert row.problems == ()
    assert row.stale == 0
    assert row.hits == row.expected_hits


@pytest.mark.parametrize("dataset", replay.DATASETS)
def test_a_cache_without_invalidation_is_stale(dataset: str) -> None:
    (row,) = replay.run(DATA, [POLICIES["global, no invalidation"]], [dataset])
    assert row.stale == row.expected_stale > 0


def test_knowing_that_a_refused_write_changed_nothing_saves_more() -> None:
    wide, narrow = replay.run(
        DATA,
        [POLICIES["global, entity"], POLICIES["global, entity, successful writes only"]],
        ["tau1_airline_gpt4o"],
    )
    assert narrow.hits > 1.5 * wide.hits


def broken_policy() -> Any:
    """Claims to invalidate by entity, and drops nothing."""

    class Broken(replay.Policy):  # type: ignore[misc]
        @property
        def must_be_fresh(self) -> bool:
            return True

    return Broken(name="global, entity", scope="global", drops="none")


def test_the_check_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--data", str(DATA)], policies=[broken_policy()]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "stale" in printed


def test_a_hit_rate_off_the_ideal_is_a_problem() -> None:
    policy = POLICIES["global, entity"]
    lines = replay.load_lines(DATA / "tau2_airline_whissle.inter.jsonl")
    outcome = asyncio.run(replay.replay(lines, policy))
    ideal = replay.load_expected(DATA)["tau2_airline_whissle"][policy.name]
    assert replay.judge("tau2_airline_whissle", policy, outcome, ideal).problems == ()
    lazy = replace(outcome, hits=outcome.hits - 4)
    (problem,) = replay.judge("tau2_airline_whissle", policy, lazy, ideal).problems
    assert "pp from the ideal" in problem


@pytest.mark.parametrize("present", ["nothing", "expected.json only"])
def test_missing_data_is_said(present: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if present != "nothing":
        (tmp_path / "expected.json").write_bytes((DATA / "expected.json").read_bytes())
    assert replay.main(["--data", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "--data DIR" in message


def test_json_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--data", str(DATA), "--json"], policies=[POLICIES["global, resource"]]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["dataset"] for row in document["rows"]} == set(replay.DATASETS)
    assert document["problems"] == []


def test_the_data_is_gzipped_without_time_or_name() -> None:
    files = sorted(DATA.glob("*.jsonl.gz"))
    assert len(files) == 2 * len(replay.DATASETS)
    for file in files:
        header = file.read_bytes()[:10]
        assert header[4:8] == b"\0\0\0\0", f"{file.name} carries a time stamp"
        assert not header[3] & 0x08, f"{file.name} carries a file name"
