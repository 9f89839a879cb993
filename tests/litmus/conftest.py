"""The litmus's tools are called like other tests' resources: which reads a process knows must not come from those."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache.policy import scopes_of_reads
from agent_cache.testing.processes import runner


@pytest.fixture(autouse=True)
def _no_reads_known() -> None:
    scopes_of_reads._scopes.clear()
    scopes_of_reads._backends.clear()


@pytest.fixture(scope="session")
def _warm_litmus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """As ``warm``, with what a worker begins with; what is imported in that one is nothing of ours."""
    package = "agent_cache.testing.processes"
    started = runpy.run_path(str(Path(__file__).parents[1] / "warm.py"))["Warm"](
        tmp_path_factory.mktemp("warm"), "asyncio", f"{package}.caches", f"{package}.orders", "sqlite3", "redis.asyncio"
    )
    yield started
    started.close()


@pytest.fixture
def warm_workers(_warm_litmus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked, not started: where nobody stops one, which would stop only the process that stands in for it."""
    monkeypatch.setattr(runner, "_WORKER", _warm_litmus.command("-m", "agent_cache.testing.processes.worker"))
