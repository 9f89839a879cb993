"""``agent-cache show KEY``: one entry, and what it holds."""

from __future__ import annotations

from typing import Any

import click

from agent_cache.backends.base import StoredEntry
from agent_cache.cli.chosen import as_json as told
from agent_cache.cli.chosen import the_one
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import age, clean, cut, fields, out, print_json, size
from agent_cache.codecs.frame import opened
from agent_cache.codecs.packed import plain
from agent_cache.errors import UnstorableResultError

__all__ = ["command", "described"]

_SHORT, _LIMIT = 2_000, 64 * 1024 * 1024


@click.command("show", short_help="Show one entry and its value.")
@click.argument("key")
@click.option("--full", is_flag=True, help="All of the value, not its first 2,000 characters.")
@url_option
@json_option
def command(url: str | None, key: str, full: bool, as_json: bool) -> int:
    """Show one entry: KEY is a key-value key, or a tool entry's digest or its beginning (4 characters or more).

    The value is shown as it is written in the store, tags of types included. It may be as sensitive as the tool's results.
    """
    entry = in_store(url, lambda backend: the_one(backend, key))
    value = _value(entry)
    if as_json:
        print_json({**told(entry), "value": value if full or value is None else cut(value, _SHORT)})
        return 0
    out().print(fields(described(told(entry))))
    if value is not None:
        shown = value if full else cut(value, _SHORT)
        out().print(fields([("value", shown)]))
    return 0


def described(entry: dict[str, Any]) -> list[tuple[str, object]]:
    """An entry as names and values."""
    left = entry["ttl_left"]
    return [
        ("key", entry["key"]),
        ("state", entry["state"]),
        ("problem", entry["problem"]),
        ("tool", entry["tool"]),
        ("resource", entry["resource"]),
        ("read from", ", ".join(entry["paths"])),
        ("scope", "/".join(entry["scope"]) or ("everyone" if entry["tags"] else "")),
        ("namespace", entry["namespace"]),
        ("arguments", entry["arguments"]),
        ("size", size(entry["bytes"])),
        ("age", age(entry["age"])),
        ("ttl left", "no ttl" if left is None else age(left)),
        ("load took", age(entry["load_seconds"]) if entry["kind"] == "tool" else ""),
    ]


def _value(entry: StoredEntry) -> str | None:
    """The written form, as text; None where there is none to be read."""
    if entry.payload is None:
        return None
    try:
        _, body = opened(plain(entry.payload, _LIMIT))
    except UnstorableResultError:
        return None
    return clean(body.decode("utf-8", "backslashreplace"))
