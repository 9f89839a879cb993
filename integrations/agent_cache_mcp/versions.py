"""What must be installed, and how new: said in one sentence, with the extra that brings it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

__all__ = ["require"]


def require(distribution: str, lowest: tuple[int, ...], extra: str) -> None:
    """See to it that ``distribution`` is there and at least ``lowest``.

    Raises:
        ImportError: naming the extra, the version that is needed and the one that was found.
    """
    wanted = ".".join(map(str, lowest))
    fix = f"agent_cache_mcp needs {distribution} >= {wanted}: pip install 'agent-cache[{extra}]'"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        raise ImportError(f"{fix} (it is not installed)") from None
    if tuple(int(part) for part in re.findall(r"\d+", found)[: len(lowest)]) < lowest:
        raise ImportError(f"{fix} (found {found})")
