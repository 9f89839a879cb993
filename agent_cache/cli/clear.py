"""``agent-cache clear``: everything out."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent_cache.backends.urls import without_password
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import entries_said, print_json, said

__all__ = ["command"]


@click.command("clear", short_help="Drop everything.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
@json_option
def command(url: str | None, yes: bool, as_json: bool) -> int:
    """Drop every entry of the store, tools' and key-value ones; it asks first.

    Loads under way are not kept. Recorded figures stay. Exit code 1 if it was declined.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes")
        if not click.confirm(f"Drop everything in {without_password(url or '')}?", err=True):
            return 1

    async def work(backend: Any) -> int:
        many = 0
        async for _ in backend.scan():
            many += 1
        await backend.clear()
        return many

    many = in_store(url, work)
    if as_json:
        print_json({"cleared": many})
    else:
        said(f"{entries_said(many)} dropped.")
    return 0
