"""The litmus's tools are called like other tests' resources: which reads a process knows must not come from those."""

from __future__ import annotations

import pytest

from agent_cache.policy import scopes_of_reads


@pytest.fixture(autouse=True)
def _no_reads_known() -> None:
    scopes_of_reads._scopes.clear()
    scopes_of_reads._backends.clear()
