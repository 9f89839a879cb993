"""What is missing or too old is named, with the extra that brings it; and the package's front door."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

import agent_cache_mcp
from agent_cache_mcp import versions


@pytest.mark.parametrize(
    ("found", "told"),
    [(None, "it is not installed"), ("1.9.4", "found 1.9.4"), ("0.99", "found 0.99"), ("1", "found 1")],
)
def test_too_old_or_missing(found: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(versions, "version", version)
    with pytest.raises(ImportError, match=told) as caught:
        versions.require("mcp", (1, 24), "mcp")
    assert "mcp >= 1.24" in str(caught.value)
    assert "pip install 'agent-cache[mcp]'" in str(caught.value)


@pytest.mark.parametrize("found", ["1.24", "1.24.0", "1.30.1", "2.0.0", "2.0.0rc1", "10.0"])
def test_new_enough(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda _: found)
    versions.require("mcp", (1, 24), "mcp")


def test_the_front_door() -> None:
    for name in agent_cache_mcp.__all__:
        assert getattr(agent_cache_mcp, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _: Any = agent_cache_mcp.nonsense
    assert {"AgentCacheExtension", "AgentCacheMiddleware", "CacheStore"} <= set(dir(agent_cache_mcp))


def test_what_is_not_used_is_not_loaded() -> None:
    program = (
        "import sys, agent_cache.cli\n"
        "assert 'mcp' not in sys.modules and 'agent_cache_mcp' not in sys.modules\n"
        "import agent_cache_mcp\n"
        "assert 'fastmcp' not in sys.modules and 'redis' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
