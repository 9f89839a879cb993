"""Invalidating before the write is not enough; nor is after it; nor both. The litmus tells them all apart from right.

These caches are what the litmus must be able to catch: if one of them passes, the litmus has lost its teeth.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent_cache.testing.litmus import Report, main, naive, run
from agent_cache.testing.smallscope import cancellations, one_writer, two_writers

OPERATIONS_PER_SEED = 400
SEEDS = range(10)


@pytest.mark.parametrize("kind", ["before", "after", "before+after", "before+after+coalesce"])
def test_invalidating_is_not_enough(kind: str) -> None:
    report = run(SEEDS, OPERATIONS_PER_SEED, naive(kind))
    print(f"{kind}: {report}")
    assert report.operations == len(SEEDS) * OPERATIONS_PER_SEED
    assert report.broken["C0"] > 50
    assert report.broken["C1"] > 20, "reads that started after the write had returned"
    assert report.broken["C3"] > 10, "sessions that went back in time"
    assert not report.ok


@pytest.mark.parametrize("kind", ["before", "after", "before+after"])
def test_some_keys_stay_wrong_for_good(kind: str) -> None:
    assert run(SEEDS, OPERATIONS_PER_SEED, naive(kind)).stuck > 0


def test_never_caching_is_right_and_does_not_pass() -> None:
    report = run(SEEDS, OPERATIONS_PER_SEED, naive("never"))
    assert report.violations == 0
    assert report.spurious == 0
    assert report.hangs == 0
    assert report.hit_ratio < 0.5
    assert not report.ok


@pytest.mark.parametrize("scenario", [one_writer, two_writers, cancellations])
def test_small_scope_catches_a_plain_fill(scenario: Callable[..., Report]) -> None:
    report = scenario(naive("before+after"), every=3)
    assert report.broken["C1"] > 0
    assert not report.ok


def test_a_failing_seed_fails_again_in_the_same_way() -> None:
    first = run(SEEDS, OPERATIONS_PER_SEED, naive("before+after"), stop_after=1)
    (seed,) = first.failing_seeds
    again = [run([seed], OPERATIONS_PER_SEED, naive("before+after")) for _ in range(2)]
    assert again[0].broken == again[1].broken
    assert again[0].examples == again[1].examples != []


def test_the_command_exits_with_1_and_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache", "before", "--operations", "800", "--per-seed", "400"]) == 1
    out = capsys.readouterr().out
    assert "per 10,000" in out
    assert "failing seeds: 0 1" in out


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="known are before, after"):
        naive("sometimes")
