"""Every kind of loop is found in time, and no kind of honest work is: told afterwards, asked before, answered by the cache."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
traces: Any = runpy.run_path(str(HERE / "traces.py"))
ways: Any = runpy.run_path(str(HERE / "conftest.py"))
WAYS = {"observed": ways["observed"], "decorated": ways["decorated"]}
# What the cache answers itself: nothing changes while nothing is written, so only what fails or is written runs again.
STORED = [name for name, (trace, _) in traces["LOOPS"].items() if not any(step.write for step in trace)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", traces["LOOPS"])
def test_a_loop_is_found_in_time(way: str, name: str) -> None:
    trace, latest = traces["LOOPS"][name]
    assert_found(WAYS[way](trace), trace, latest)


@pytest.mark.parametrize("name", STORED)
def test_a_loop_is_found_though_the_cache_answers(name: str) -> None:
    trace, latest = traces["LOOPS"][name]
    assert_found(partial(ways["decorated"], kept=True)(trace), trace, latest)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", traces["HONEST"])
def test_honest_work_is_let_alone(way: str, name: str) -> None:
    assert WAYS[way](traces["HONEST"][name]) is None


def assert_found(event: Any, trace: Any, latest: int) -> None:
    assert event is not None
    assert event.kind != "depth"
    before = next((at for at, step in enumerate(trace) if step.tool is None), -1) + 1  # calls since the user spoke
    assert event.last_step + 1 <= latest - max(0, before - 1)
    assert event.first_step <= event.last_step
    assert event.calls[-1].step == event.last_step
    assert event.hint
