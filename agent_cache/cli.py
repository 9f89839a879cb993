"""The ``agent-cache`` program. It finds the subcommand and hands the rest of the line over; what one needs is loaded then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ["main"]

Command = Callable[[Sequence[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit code: 0, or 2 for a wrong command line or a missing package."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    command = _COMMANDS.get(given[0]) if given else None
    if command is None:
        problem = f"there is no command {given[0]!r}" if given else "give a command"
        print(f"agent-cache: {problem}\n{_usage()}", file=sys.stderr)
        return 2
    try:
        return command[0](given[1:])
    except ImportError as error:
        print(f"agent-cache {given[0]}: {error}", file=sys.stderr)
        return 2


def _mcp_proxy(arguments: Sequence[str]) -> int:
    run: Command = import_module("agent_cache_mcp.proxy").main  # by name: the core knows no integration
    return run(arguments)


_COMMANDS: dict[str, tuple[Command, str]] = {
    "mcp-proxy": (_mcp_proxy, "put the cache before an MCP server (extra: mcp)"),
}


def _usage() -> str:
    lines = [f"  {name:<12} {purpose}" for name, (_, purpose) in _COMMANDS.items()]
    return "\n".join(["usage: agent-cache COMMAND ...; agent-cache COMMAND --help says more", *lines])


if __name__ == "__main__":
    sys.exit(main())
