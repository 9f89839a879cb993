"""The labelled traces and the recorded sessions: the goals are met, and the score can tell."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DATA = BENCHMARKS / "data"


def load_loops() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agent_cache_benchmarks_loops", BENCHMARKS / "loops.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


loops: Any = load_loops()
CASES = loops.load_cases(DATA)
SCORED = [case for case in CASES if not case.contested]


def test_the_cases_are_all_there() -> None:
    assert len(CASES) == 60
    assert sum(case.loop for case in SCORED) == 21
    assert all(case.visible_at is not None and case.visible_at <= case.by_step for case in SCORED if case.loop)


@pytest.mark.parametrize("case", SCORED, ids=lambda case: case.name)
def test_each_scored_case(case: Any) -> None:
    import asyncio

    for fired in (loops.fired_observed(case.calls), asyncio.run(loops.fired_decorated(case.calls))):
        if case.loop:
            assert fired is not None
            assert fired <= case.by_step
        else:
            assert fired is None


def test_at_most_one_recorded_session_in_a_hundred_is_flagged() -> None:
    sessions = list(loops.load_sessions(DATA))
    flagged = [name for name, calls in sessions if loops.fired_observed(calls)]
    assert len(sessions) == 232
    assert len(flagged) <= 0.01 * len(sessions)


def test_the_others_miss_or_cry_wolf() -> None:
    scores = {score.name: score for score in loops.all_scores(CASES)}
    ours = scores["agent_cache, observed"]
    assert (ours.precision, ours.recall) == (1.0, 1.0)
    for name in loops.RIVALS:
        assert scores[name].recall < 1 or scores[name].precision < 1
        assert scores[name].found > 0


def test_a_detector_that_never_fires_wastes_all_and_one_that_always_does_is_wrong() -> None:
    never = loops.score("never", SCORED, lambda case: None)
    always = loops.score("always", SCORED, lambda case: 1)
    assert (never.found, never.recall, len(never.false_alarms)) == (0, 0.0, 0)
    assert never.wasted > 5
    assert len(always.false_alarms) == sum(not case.loop for case in SCORED)


def test_the_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert loops.main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sessions"] == 232
    assert loops.main(["--data", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err
