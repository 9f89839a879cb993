"""A write wins: no schedule makes agent_cache serve a stale answer, hang, fail an innocent caller or get stuck.

The normal run takes seconds; ``pytest -m soak`` searches for minutes. A failing seed is printed, and
``python -m agent_cache.testing.litmus --seed N --operations 1`` shows it again.
"""

from __future__ import annotations

import argparse

import pytest

from agent_cache.testing.litmus import Report, main, run
from agent_cache.testing.processes.runner import OPTIONS, add_options
from agent_cache.testing.smallscope import TOLD, cancellations, one_writer, told_apart, two_writers

SOME = 7  # of the small-scope schedules, each seventh; the soak runs them all


def _right(report: Report) -> None:
    assert report.ok, str(report)


def test_random_schedules() -> None:
    report = run(range(16))
    assert report.operations == 6_400
    _right(report)
    assert report.hit_ratio >= 0.5


@pytest.mark.parametrize("warm", [False, True])
def test_one_writer_and_three_readers_in_many_orders(warm: bool) -> None:
    _right(one_writer(warm=warm, every=SOME))


@pytest.mark.parametrize("ends", ["refuse", "no_effect"])
def test_two_writers_of_which_one_changes_nothing_in_many_orders(ends: str) -> None:
    _right(two_writers(ends=ends, warm=True, every=SOME))


@pytest.mark.parametrize("second", TOLD)
@pytest.mark.parametrize("first", TOLD)
def test_two_writers_of_which_only_the_end_tells_what_they_wrote_in_many_orders(first: str, second: str) -> None:
    _right(told_apart(first=first, second=second, every=61))


def test_a_writer_and_a_reader_cancelled_at_many_steps() -> None:
    _right(cancellations(every=3))


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Else a failing seed could not be shown again. Nothing in the cache may depend on where an object lies."""
    first, again = ([run([seed]) for seed in range(1, 8)] for _ in range(2))
    assert [(r.reads, r.loads) for r in first] == [(r.reads, r.loads) for r in again]


def test_the_command_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--operations", "2000"]) == 0
    assert "violations 0 (0.0 per 10,000" in capsys.readouterr().out


@pytest.mark.soak
def test_random_schedules_for_long() -> None:
    report = run(range(1_000, 1_600))
    assert report.operations == 240_000
    _right(report)


@pytest.mark.soak
@pytest.mark.parametrize("length", [50, 4_000])
def test_short_and_long_schedules(length: int) -> None:
    report = run(range(5_000, 5_000 + 40_000 // length), length)
    assert report.faults == 0, str(report)  # short ones end before much is cached


@pytest.mark.soak
@pytest.mark.parametrize("scope", ["global", "session", "user"])
@pytest.mark.parametrize("warm", [False, True])
def test_every_order_of_one_writer(scope: str, warm: bool) -> None:
    _right(one_writer(scope=scope, warm=warm))


@pytest.mark.soak
@pytest.mark.parametrize("ends", ["refuse", "no_effect"])
@pytest.mark.parametrize("warm", [False, True])
def test_every_order_of_two_writers(ends: str, warm: bool) -> None:
    _right(two_writers(ends=ends, warm=warm))


@pytest.mark.soak
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("second", TOLD)
@pytest.mark.parametrize("first", TOLD)
def test_every_order_of_two_writers_told_apart(first: str, second: str, apart: bool) -> None:
    _right(told_apart(first=first, second=second, apart=apart))


@pytest.mark.soak
def test_every_step_of_cancelling() -> None:
    _right(cancellations(steps=16))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--operations", "0"], "--operations 0: give"),
        (["--operations", "-5"], "--operations -5: give"),
        (["--per-seed", "0"], "--per-seed 0: give"),
        (["--cache", "nonsense"], "--cache nonsense: give agent_cache"),
        (["--freshness", "nonsense"], "--freshness nonsense: give one of ttl"),
        (["--cache", "before", "--freshness", "ttl"], "leave --cache out"),
        (["--faults", "all"], "--faults all: it is for real processes: give --backend"),
        (["--processes", "2"], "--processes 2: it is"),
        (["--seconds", "5"], "--seconds 5.0: it is"),
        (["--every", "2"], "--every 2.0: it is"),
        (["--mix", "read-mostly"], "--mix read-mostly: it is"),
        (["--writes", "told"], "--writes told: it is"),
        (["--reads", "nested"], "--reads nested: it is"),
        (["--server", "own"], "--server own: it is"),
        (["--verbose"], "--verbose True: it is"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *([] if "--operations" in arguments else ["--operations", "1"])]) == 2
    assert why in capsys.readouterr().err


def test_every_option_of_the_processes_is_asked_about() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    assert {"backend", *OPTIONS} == set(vars(parser.parse_args([])))
