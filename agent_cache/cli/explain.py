"""``agent-cache explain KEY``: why an entry would be served, or would not."""

from __future__ import annotations

from typing import Any

import click

from agent_cache.backends.base import Blocked, Found, Missing, StoredEntry
from agent_cache.cli.chosen import as_json as told
from agent_cache.cli.chosen import the_one
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import age, fields, out, print_json, said
from agent_cache.moving.arriving import RAW
from agent_cache.tags import Tag, spell

__all__ = ["command"]


@click.command("explain", short_help="Say why an entry would be served, or not.")
@click.argument("key")
@url_option
@json_option
def command(url: str | None, key: str, as_json: bool) -> int:
    """Say why an entry would be served, or why not; KEY as for `show`.

    It is looked up as a call would look it up: by its tags' versions. Exit code 1 if it would not be served.
    """

    async def work(backend: Any) -> tuple[StoredEntry, str, str]:
        entry = await the_one(backend, key)
        return (entry, *await _verdict(backend, entry))

    entry, verdict, why = in_store(url, work)
    if as_json:
        print_json({**told(entry), "verdict": verdict, "why": why})
    else:
        said(f"{entry.name[:16]}: {verdict}", "bold green" if verdict == "served" else "bold yellow")
        said(why)
        found = told(entry)
        out().print(fields([("tool", found["tool"]), ("arguments", found["arguments"])]))
        if found["tags"]:
            said("Loaded under these tags; a write that moves one of them drops it:", "dim")
            for tag in entry.tags or ():
                said(f"  {_worded(tag)}")
    return 0 if verdict == "served" else 1


async def _verdict(backend: Any, entry: StoredEntry) -> tuple[str, str]:
    if entry.problem:
        return "broken", f"It cannot be used: {entry.problem}. It is a miss; the next load replaces it."
    if not entry.is_tool:
        return "served", "A key-value entry: it is served until its ttl is over or somebody deletes it." + _left(entry)
    if entry.tags is None or not isinstance(entry.key, bytes):
        return (
            "unknown",
            "It carries no label, so its tags are not known here. Ask where the tool is: TOOL.explain(...).",
        )
    seen = await backend.lookup(entry.key, entry.tags, RAW)
    if isinstance(seen, Found):
        return "served", f"No write has moved a tag of it since it was loaded {age(entry.age)} ago." + _left(entry)
    if isinstance(seen, Blocked):
        return "write running", "A write of something it depends on is under way: until it has ended, calls run live."
    assert isinstance(seen, Missing)  # noqa: S101 - the third and last of what a lookup gives
    if seen.why == "stale":
        by = (
            f"It was dropped by {seen.dropped_by}."
            if seen.dropped_by
            else "A write has dropped it; by whom is not stored."
        )
        return "dropped", f"{by} It is never served again; the next call runs the tool."
    if seen.why == "expired":
        return "expired", "Its ttl is over. The next call runs the tool."
    return "absent", "It has gone since it was listed."


def _worded(tag: Tag) -> str:
    kind, _, path = tag
    if not path:
        return f"{spell(tag)}: everything"
    if path[0].startswith("#"):
        return "this call, by .invalidate()" if len(path) > 1 else "all calls of this tool, by .invalidate_all()"
    return f"{spell(tag)}: a write of {':'.join(path)}" + (" or below it" if kind == "any" else " as a whole")


def _left(entry: StoredEntry) -> str:
    return " It has no ttl." if entry.ttl_left is None else f" Its ttl ends in {age(entry.ttl_left)}."
