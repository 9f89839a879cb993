"""A memory backend whose time stands still, set as the default, for each test."""

from __future__ import annotations

import pytest

from agent_cache import MemoryBackend, configure
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memory(clock: FakeClock) -> MemoryBackend:
    return MemoryBackend(clock=clock)


@pytest.fixture(autouse=True)
def _default_backend(_fresh_process_state: None, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})  # other tests' reads do not widen a write of this one
    settings.notices.forget()
    configure(backend=memory)
