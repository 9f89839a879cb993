"""The same promises over a backend whose every operation takes time and can be interrupted, as one over a network can.

It is the memory backend with waits before and after each operation, so what breaks here is the way calls are carried
out, not the way things are stored.
"""

from __future__ import annotations

import pytest

from agent_cache.testing import FakeClock
from agent_cache.testing.adapters import ALL_CHECKS, AgentCacheAdapter
from agent_cache.testing.litmus import run
from agent_cache.testing.slow import SlowBackend
from agent_cache.testing.smallscope import cancellations, one_writer, told_apart, two_writers

PROMISED = ALL_CHECKS - {"P5"}
"""A lookup's answer can be on its way while a load of the same key lands: such a call loads again."""


class SlowAdapter(AgentCacheAdapter):
    """agent_cache over a slow backend."""

    by_hand = False  # what is changed first and invalidated then is stale in between

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, make_backend=SlowBackend, checks=PROMISED)


def test_random_schedules() -> None:
    report = run(range(8), make_adapter=SlowAdapter)
    assert report.ok, str(report)


def test_one_writer_and_three_readers() -> None:
    report = one_writer(SlowAdapter, every=17)
    assert report.ok, str(report)


@pytest.mark.parametrize("ends", ["refuse", "no_effect"])
def test_two_writers(ends: str) -> None:
    report = two_writers(SlowAdapter, ends=ends, warm=True, every=17)
    assert report.ok, str(report)


@pytest.mark.parametrize("second", ["named", "told", "told, refused", "refused"])
def test_two_writers_told_apart(second: str) -> None:
    report = told_apart(SlowAdapter, second=second, every=43)
    assert report.ok, str(report)


def test_cancellations() -> None:
    report = cancellations(SlowAdapter, every=4, steps=20)
    assert report.ok, str(report)


@pytest.mark.soak
def test_random_schedules_for_long() -> None:
    report = run(range(20_000, 20_300), make_adapter=SlowAdapter)
    assert report.ok, str(report)
