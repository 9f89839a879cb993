"""``agent-cache ls``: what is stored."""

from __future__ import annotations

import click

from agent_cache.backends.base import StoredEntry
from agent_cache.cli.chosen import as_json as told
from agent_cache.cli.chosen import collected, state, tool_filter
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import age, cut, entries_said, is_narrow, out, print_json, said, size, table

__all__ = ["command"]

_SORTS = {
    "age": lambda entry: (entry.age is None, entry.age or 0.0, entry.name),
    "size": lambda entry: (-entry.size, entry.name),
    "ttl": lambda entry: (entry.ttl_left is None, entry.ttl_left or 0.0, entry.name),
    "tool": lambda entry: (not entry.is_tool, entry.tool, entry.name),
}
_STYLES = {"current": "", "broken": "red"}


@click.command("ls", short_help="List what is stored.")
@url_option
@click.option("--tool", metavar="PATTERN", help="Of these tools, such as 'get_*' or 'shop.get_cart'.")
@click.option("--namespace", metavar="NAME", help="Of this namespace; '' is what has none.")
@click.option("--tag", metavar="TAG", help="What a write of this resource would drop, such as cart:42.")
@click.option("--current", is_flag=True, help="Only what would be served.")
@click.option("--sort", type=click.Choice(sorted(_SORTS)), default="tool", show_default=True)
@click.option(
    "--limit", type=click.IntRange(0), metavar="N", default=100, show_default=True, help="Entries at most; 0: all."
)
@json_option
def command(
    url: str | None,
    tool: str | None,
    namespace: str | None,
    tag: str | None,
    current: bool,
    sort: str,
    limit: int,
    as_json: bool,
) -> int:
    """List what is stored: tools' entries and key-value ones.

    Tools, resources and tags are known where entries carry labels (a store with a secret has none, unless it was told to);
    arguments where configure(store_args=True) was in force.
    """
    wanted = tool_filter(tool, namespace, tag, only_current=current)
    found = in_store(url, lambda backend: collected(backend, wanted))
    found.sort(key=_SORTS[sort])
    shown = found[:limit] if limit else found
    if as_json:
        print_json({"entries": [told(entry) for entry in shown], "count": len(found)})
        return 0
    if not found:
        said("Nothing is stored that fits.")
        return 0
    _show(shown)
    left = len(found) - len(shown)
    total = size(sum(entry.size for entry in found))
    said(f"{entries_said(len(found))}, {total}" + (f"; {left:,} more are not shown: --limit 0" if left else ""), "dim")
    return 0


def _show(entries: list[StoredEntry]) -> None:
    has_arguments = any(entry.arguments for entry in entries) and not is_narrow()  # `show` has them
    columns = [("key", "k"), ("tool", "k"), ("resource", "")]
    columns += [("arguments", "")] if has_arguments else []
    columns += [("size", "n"), ("age", "n"), ("ttl left", "n"), ("state", "k")]
    rows = [
        [
            entry.name[:12] if entry.is_tool else cut(entry.name, 12 if is_narrow() else 24),
            cut(entry.tool.rpartition(".")[2] or "?", 20 if is_narrow() else 40) if entry.is_tool else "(value)",
            cut(", ".join(":".join(path) for path in entry.paths), 60),  # `show` has all of it
            *([cut(entry.arguments, 60)] if has_arguments else []),
            size(entry.size),
            age(entry.age),
            "no ttl" if entry.ttl_left is None else age(entry.ttl_left),
            state(entry),
        ]
        for entry in entries
    ]
    styles = [_STYLES.get(state(entry), "dim") for entry in entries]
    out().print(table(columns, rows, styles=styles))
