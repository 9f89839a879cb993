"""That the frameworks are there and new enough, said in one sentence before anything of them is imported."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

__all__ = ["require"]

_NEEDED = {"langchain": (1, 4), "langgraph": (1, 0)}


def require() -> None:
    """Check what is installed.

    Raises:
        ImportError: naming what is missing or too old, the version that is needed, and the extra that brings it.
    """
    for name, needed in _NEEDED.items():
        least = ".".join(map(str, needed))
        try:
            found = version(name)
        except PackageNotFoundError:
            raise ImportError(_text(name, least, "it is not installed"), name=name) from None
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < needed:
            raise ImportError(_text(name, least, f"version {found} is installed"), name=name)


def _text(name: str, least: str, what: str) -> str:
    return f"agent_cache_langchain needs {name} >= {least}, and {what}: pip install 'agent-cache[langchain]'"
