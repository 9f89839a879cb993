"""What every test starts from: no settings from outside, counters at zero, reproducible hypothesis runs.

And one set of Redis servers for all folders, started when first asked for. Who uses one empties it first (or keeps to a
prefix of its own); tests that break a server start their own. In the same way one process forks the programs that tests
start by the dozen (warm.py).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import runpy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import agent_cache
from agent_cache.engine.outbox import OUTBOX
from agent_cache.testing.servers import ClusterSetup, RedisServer, SentinelSetup

# No deadline: a busy machine is not a failing example. `make soak` sets HYPOTHESIS_PROFILE=soak.
_slow_is_fine = [HealthCheck.too_slow]
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=_slow_is_fine)
settings.register_profile(
    "soak", deadline=None, derandomize=False, max_examples=5_000, suppress_health_check=_slow_is_fine, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# What is imported while tests are collected stays: nothing looks through it again and again, then or later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()  # what was left open meanwhile is told, as ever
    gc.freeze()
    gc.enable()


@pytest.fixture
def own_loop() -> Iterator[None]:
    """run_sync runs on the thread's event loop, makes one if there is none, and leaves it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def soak_time() -> timedelta:
    """How long one soak test may run: AGENT_CACHE_SOAK_SECONDS, a minute unless it says otherwise."""
    return timedelta(seconds=float(os.environ.get("AGENT_CACHE_SOAK_SECONDS", "60")))


@pytest.fixture(autouse=True)
def _fresh_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts with an empty default backend, default settings and counters at zero, and leaves them so."""
    monkeypatch.delenv("AGENT_CACHE_URL", raising=False)
    _reset()
    yield
    _reset()


def _reset() -> None:
    agent_cache.configure(
        backend=None,
        namespace="",
        mode="on",
        observers=(),
        default_ttl=None,
        on_unavailable="proceed",
        secret=None,
        record_stats=False,
        store_args=False,
        verify=0,
    )
    agent_cache.reset_metrics()
    OUTBOX.debts.clear()  # to a backend that was dead for its test: nobody goes on trying
    logging.getLogger("agent_cache").setLevel(logging.NOTSET)  # some programs under test turn it down


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis backends made from now on give up an invalidation at once, not after two seconds: Redis is dead for good."""
    monkeypatch.setattr("agent_cache.backends.redis.backend._PATIENCE", 0.05)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[ClusterSetup]:
    with ClusterSetup() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[SentinelSetup]:
    with SentinelSetup() as sentinel:
        yield sentinel


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Where programs of ours start at once: ``warm.command("-m", "agent_cache.cli", "ls")`` is a line to run."""
    started = runpy.run_path(str(Path(__file__).with_name("warm.py")))["Warm"](
        tmp_path_factory.mktemp("warm"), "asyncio", "agent_cache"
    )
    yield started
    started.close()
