"""What `import agent_cache` gives, and what it does not load."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys

import pytest

import agent_cache

PUBLIC = {
    "GLOBAL",
    "KEY",
    "NEVER",
    "AgentCache",
    "AgentCacheError",
    "AgentCacheInvalidator",
    "AgentCacheSession",
    "AgentLoopDetectedError",
    "AsyncCache",
    "AsyncLRU",
    "AsyncLRUInvalidator",
    "AsyncTTL",
    "AsyncTTLInvalidator",
    "BackendError",
    "BatchLoadError",
    "CacheKey",
    "CallEvent",
    "CassetteError",
    "ConfigurationError",
    "EraseReport",
    "ExpiredEntry",
    "Explanation",
    "ExportFileError",
    "InvalidationEvent",
    "LoadTimeoutError",
    "LoopEvent",
    "LoopPolicy",
    "MemoryBackend",
    "NoEffect",
    "Observer",
    "ReplayedToolError",
    "Quota",
    "ShadowReport",
    "TieredBackend",
    "ToolCall",
    "UnkeyableArgumentError",
    "UnrecordedCallError",
    "UnstorableResultError",
    "Validator",
    "__version__",
    "configure",
    "erase",
    "depends_on",
    "find_narrow_writes",
    "get_metrics",
    "no_cache",
    "refresh",
    "reset_metrics",
    "shadow_report",
    "watched",
}

ON_DEMAND = {"DiskBackend", "RedisBackend"}

# What the core must never load by itself: the optional packages, and what only an optional part of ours needs.
OPTIONAL = {
    "agents",
    "fastmcp",
    "langchain",
    "langchain_core",
    "langgraph",
    "mcp",
    "opentelemetry",
    "prometheus_client",
    "pydantic_ai",
    "redis",
    "sqlite3",
}
NEVER = {"pytest", "hypothesis", "agent_cache_pytest", "agent_cache_langchain", "agent_cache.testing"}


def test_all_is_exact() -> None:
    assert set(agent_cache.__all__) == PUBLIC
    assert len(agent_cache.__all__) == len(set(agent_cache.__all__))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_there(name: str) -> None:
    assert hasattr(agent_cache, name)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_name_says_what_it_is(name: str) -> None:
    value = getattr(agent_cache, name)
    doc = value.__doc__
    assert doc, f"{name} has no docstring"
    assert doc.strip()
    # Its own words, not those of a base class, nor the signature a dataclass writes by itself.
    if inspect.isclass(value):
        assert "__doc__" in vars(value)
        assert not doc.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"
        assert all(doc != base.__doc__ for base in value.__mro__[1:])


def test_public_classes_and_functions_document_their_public_methods() -> None:
    missing = [
        f"{name}.{attribute}"
        for name in sorted(PUBLIC)
        if inspect.isclass(value := getattr(agent_cache, name))
        for attribute, member in vars(value).items()
        if not attribute.startswith("_") and inspect.isfunction(member) and not inspect.getdoc(member)
        if not getattr(value, "_is_protocol", False)
        if name not in ("MemoryBackend", "TieredBackend")  # a backend's methods are described once, in backends/base.py
    ]
    assert missing == []


def test_the_version_is_the_distribution_s() -> None:
    assert agent_cache.__version__ == importlib.metadata.version("agent-cache")


def test_no_other_name_leaks_into_the_namespace() -> None:
    """`from agent_cache import <Tab>` offers what is meant to be used, and the package's own modules."""
    shown = {name for name in dir(agent_cache) if not name.startswith("_")}
    modules = {name for name in shown if f"agent_cache.{name}" in sys.modules}
    assert shown - modules - PUBLIC - ON_DEMAND - {"annotations"} == set()


def _modules_after(statement: str) -> set[str]:
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


USED = """
import asyncio, agent_cache
@agent_cache.AgentCache("thing:{name}", scope="session")
async def look_up(name: str) -> list[str]:
    return [name]
async def main():
    async with agent_cache.AgentCacheSession():
        assert await look_up("a") == await look_up("a") == ["a"]
asyncio.run(main())
assert agent_cache.get_metrics()["hits"] == 1
"""


@pytest.mark.parametrize("statement", ["import agent_cache", USED], ids=["imported", "used"])
def test_the_core_loads_nothing_optional(statement: str) -> None:
    without_us = _modules_after("import pydantic")  # what pydantic's own plugins bring is not ours
    loaded = _modules_after(statement) - without_us
    assert {name for name in loaded if name.split(".")[0] in OPTIONAL} == set()
    assert loaded & NEVER == set()


def test_importing_is_silent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import agent_cache"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_starts_no_thread_and_no_loop() -> None:
    program = "import agent_cache, threading; assert threading.active_count() == 1, threading.enumerate()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
