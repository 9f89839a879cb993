"""The commands, where they are, and what their errors mean for the exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


class _NobodyReadsError(Exception):
    """Who read us has seen enough."""


class _Commands(click.Group):
    """Loads a command when it is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would end the program with 1, which is the code of "no"
            raise _NobodyReadsError from error

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
    with _any_text_printed():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        done: Any = app.main(list(arguments), prog_name="agent-cache", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        sys.stderr.write("agent-cache: interrupted\n")
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, _NobodyReadsError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the interpreter flushes it at its end
        return OK
    except (ConfigurationError, ImportError) as error:
        return _told(error, USAGE)
    except (AgentCacheError, OSError, TraceError) as error:
        return _told(error, UNREACHABLE)
    return done if isinstance(done, int) else OK


@contextmanager
def _any_text_printed() -> Iterator[None]:
    """Meanwhile what an output's encoding does not have is spelled, and an output that is closed takes what is written."""
    strict = [stream for stream in (sys.stdout, sys.stderr) if getattr(stream, "errors", None) == "strict"]
    with ExitStack() as after:
        for stream in strict:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
                after.callback(_strict_again, stream)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # started with >&-
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the program ends
        yield


def _strict_again(stream: io.TextIOWrapper) -> None:
    if stream in (sys.stdout, sys.stderr) and not stream.closed:  # not one that nobody reads any more: this flushes
        stream.reconfigure(errors="strict")


def _told(error: Exception, code: int) -> int:
    text = str(error)
    url = os.environ.get("AGENT_CACHE_URL", "")
    if url:
        text = text.replace(url, without_password(url))
    sys.stderr.write(f"agent-cache: {clean(text)}\n")
    return code
