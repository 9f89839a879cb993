"""The commands, where they are, and what their errors mean for the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from agent_cache.backends.urls import without_password
from agent_cache.cli import proxied
from agent_cache.cli.shown import clean
from agent_cache.errors import AgentCacheError, ConfigurationError
from agent_cache.simulate import TraceError

__all__ = ["COMMANDS", "FAILED", "OK", "UNREACHABLE", "USAGE", "app", "run"]

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
COMMANDS = {
    "clear": "clear",
    "doctor": "doctor",
    "explain": "explain",
    "export": "export",
    "import": "import_",
    "invalidate": "invalidate",
    "ls": "ls",
    "report": "report",
    "show": "show",
    "simulate": "simulate",
    "stats": "stats",
}
"""Each in a module of this package, as ``command``."""


class _Commands(click.Group):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, "mcp-proxy"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "mcp-proxy":
            return _mcp_proxy
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found: click.Command = import_module(f"agent_cache.cli.{module}").command
        return found


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="agent-cache", prog_name="agent-cache")
def app() -> None:
    """Look into a cache of agents' tool calls, and act on it.

    The store is --url, or AGENT_CACHE_URL: disk:///path/to/cache.db, redis://host, rediss://, redis+sentinel://,
    redis+cluster:// or unix://. A store with a secret is opened with AGENT_CACHE_SECRET.

    Exit codes: 0 done; 1 the answer is no (not found, declined, something wrong); 2 wrong command line or configuration;
    3 a store or file cannot be reached, read or written; 130 interrupted.
    """


@click.command(
    "mcp-proxy",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _mcp_proxy(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Put the cache before an MCP server (extra: mcp)."""
    ctx.exit(proxied(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command and tell its exit code; what went wrong is said in one line."""
    try:
        done: Any = app.main(list(arguments), prog_name="agent-cache", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        sys.stderr.write("agent-cache: interrupted\n")
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read us has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the interpreter flushes it at its end
        return OK
    except (ConfigurationError, ImportError) as error:
        return _told(error, USAGE)
    except (AgentCacheError, OSError, TraceError) as error:
        return _told(error, UNREACHABLE)
    return done if isinstance(done, int) else OK


def _told(error: Exception, code: int) -> int:
    text = str(error)
    url = os.environ.get("AGENT_CACHE_URL", "")
    if url:
        text = text.replace(url, without_password(url))
    sys.stderr.write(f"agent-cache: {clean(text)}\n")
    return code
