"""The ``agent-cache`` program: one module per command, all of them over what the library itself offers.

========== ===========================================================================================
module     what belongs there
========== ===========================================================================================
app        the commands and where they are, loaded when they are asked for; errors in exit codes
opened     which store a command works on, and what cannot be worked on
shown      tables, JSON, sizes and durations on the terminal; text from a store made harmless
chosen     which entries are meant
the rest   a command each: a parser, a question to the library, and its answer shown
========== ===========================================================================================

What does *not* belong here: anything that decides about calls or entries. click and rich (the extra ``cli``) are imported by
this package alone, and not by this module, so that ``mcp-proxy`` goes without them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

__all__ = ["main"]

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (docs/terminal.md has the table)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["mcp-proxy"]:
        return proxied(given[1:])
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        needs = " and ".join(missing)
        sys.stderr.write(f"agent-cache: the terminal needs {needs}: pip install 'agent-cache[cli]'\n")
        return 2
    run = import_module("agent_cache.cli.app").run
    return int(run(given))


def proxied(arguments: Sequence[str]) -> int:
    """``agent-cache mcp-proxy``, whose command line is the integration's own."""
    try:
        proxy = import_module("agent_cache_mcp.proxy")  # by name: the core knows no integration
    except ImportError as error:
        sys.stderr.write(f"agent-cache mcp-proxy: {error}\n")
        return 2
    return int(proxy.main(arguments))
