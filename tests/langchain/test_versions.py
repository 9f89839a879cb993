"""A framework that is missing or too old is said at import, with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from agent_cache_langchain import versions

PROGRAM = """
import importlib.metadata as metadata

real = metadata.version

def version(name):
    if name == {name!r}:
        if {found!r} is None:
            raise metadata.PackageNotFoundError(name)
        return {found!r}
    return real(name)

metadata.version = version
import agent_cache_langchain
"""


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("langchain", None, "needs langchain >= 1.4, and it is not installed: pip install 'agent-cache[langchain]'"),
        ("langchain", "1.3.9", "needs langchain >= 1.4, and version 1.3.9 is installed"),
        ("langgraph", None, "needs langgraph >= 1.0, and it is not installed: pip install 'agent-cache[langchain]'"),
        ("langgraph", "0.6.11", "needs langgraph >= 1.0, and version 0.6.11 is installed"),
    ],
)
def test_the_import_says_what_is_needed(name: str, found: str | None, said: str) -> None:
    program = PROGRAM.format(name=name, found=found)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"ImportError: agent_cache_langchain {said}" in done.stderr


@pytest.mark.parametrize("found", ["1.4.0", "1.10.2", "2.0.0rc1", "1.4.0.dev1"])
def test_newer_ones_will_do(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> Any:
        return found if name == "langchain" else metadata.version(name)

    monkeypatch.setattr(versions, "version", version)
    versions.require()
