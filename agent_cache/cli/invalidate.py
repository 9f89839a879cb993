"""``agent-cache invalidate TAG``: what a write of this resource does, by hand."""

from __future__ import annotations

from typing import Any

import click

from agent_cache.cli.chosen import as_json as told
from agent_cache.cli.chosen import collected, is_reached, state, written
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import entries_said, print_json, said

__all__ = ["command"]


@click.command("invalidate", short_help="Drop what depends on a resource.")
@click.argument("tag")
@click.option("--dry-run", is_flag=True, help="Only say what it would reach.")
@url_option
@json_option
def command(url: str | None, tag: str, dry_run: bool, as_json: bool) -> int:
    """Drop everything that was read from TAG, such as cart:42, from what is over it (cart) and below it (cart:42:items).

    It moves the versions of the tags, as a write tool does: whatever was loaded before is never served again, in any process,
    and loads under way are not kept. Values with special characters are written as `ls` shows them.
    """
    tags = written(tag)

    async def work(backend: Any) -> list[dict[str, Any]]:
        found = await collected(backend, lambda entry: is_reached(entry, tags) and state(entry) == "current")
        if not dry_run:
            await backend.move(tags, "agent-cache invalidate")
        return [told(entry) for entry in found]

    reached = in_store(url, work)
    if as_json:
        print_json({"tag": tag, "invalidated": not dry_run, "reached": reached, "count": len(reached)})
        return 0
    verb = "would be dropped" if dry_run else "dropped"
    said(f"{tag}: {entries_said(len(reached))} {verb}.")
    for entry in reached[:20]:
        said(f"  {entry['key'][:12]}  {entry['tool'] or '?'}  {', '.join(entry['paths'])}", "dim")
    if len(reached) > 20:
        said(f"  and {len(reached) - 20:,} more", "dim")
    return 0
