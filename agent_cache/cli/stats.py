"""``agent-cache stats``: what a store holds, and what it saved."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from agent_cache.cli.chosen import collected, seconds_of, state
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import age, clean, cut, is_narrow, out, print_json, size, table
from agent_cache.pages.words import percent
from agent_cache.recorded import StatsRow

__all__ = ["command", "summed"]

_HEADINGS = {"coalesced": "shared", "invalidations": "writes"}
_SUMMED = ("hits", "misses", "stale", "expired", "coalesced", "invalidations", "loops", "seconds_saved", "cost_saved")


@click.command("stats", short_help="Show what is stored and what was saved.")
@click.option(
    "--since", default="24h", show_default=True, metavar="DURATION", help="Figures of the last 90, 15m, 2h, 7d."
)
@click.option(
    "--watch", type=click.FloatRange(0.1), metavar="SECONDS", help="Show it again every so often, until Ctrl-C."
)
@click.option("--times", type=click.IntRange(1), metavar="N", help="With --watch: so many times.")
@click.option("--entries/--no-entries", default=None, help="Count stored entries by tool; without --watch it does.")
@url_option
@json_option
def command(
    url: str | None, since: str, watch: float | None, times: int | None, entries: bool | None, as_json: bool
) -> int:
    """Show what the store holds and, where configure(record_stats=True) is in force, what it saved.

    With --watch and --json: a JSON value per line.
    """
    if times is not None and watch is None:
        raise click.UsageError(f"--times {times} says how often --watch shows it: give --watch SECONDS too")
    period = seconds_of(since, "--since")
    counts = watch is None if entries is None else entries

    async def work(backend: Any) -> None:
        if watch is None:
            found = await _found(backend, period, entries=counts)
            print_json(found) if as_json else out().print(_shown(found, since))
        else:
            await _watch(backend, period, since, watch, times, entries=counts, as_json=as_json)

    try:
        in_store(url, work)
    except KeyboardInterrupt:
        if watch is None:
            raise
    return 0


async def _watch(
    backend: Any, period: float, since: str, every: float, times: int | None, *, entries: bool, as_json: bool
) -> None:
    console = out()
    live = Live(console=console, auto_refresh=False, screen=False) if console.is_terminal and not as_json else None
    shown = 0
    if live is not None:
        live.start()
    try:
        while True:
            found = await _found(backend, period, entries=entries)
            if as_json:
                print_json(found, indent=None)
                sys.stdout.flush()
            elif live is not None:
                live.update(_shown(found, since), refresh=True)
            else:
                console.print(_shown(found, since))
            shown += 1
            if times is not None and shown >= times:
                return
            await asyncio.sleep(every)
    finally:
        if live is not None:
            live.stop()


async def _found(backend: Any, period: float, *, entries: bool) -> dict[str, Any]:
    now = time.time()
    rows: list[StatsRow] = await backend.recorded_stats(now - period)
    store: dict[str, Any] = await backend.stats()
    held: list[dict[str, Any]] | None = None
    if entries:
        held = _held(await collected(backend, lambda _: True))
    return {"at": now, "store": store, "tools": summed(rows), "entries": held}


def summed(rows: Iterable[StatsRow]) -> list[dict[str, Any]]:
    """The rows of each tool added up, most time saved first."""
    tools: dict[str, dict[str, Any]] = {}
    for row in rows:
        mine = tools.setdefault(row.tool, {"tool": row.tool, **dict.fromkeys(_SUMMED, 0), "dropped_by": {}})
        for name in _SUMMED:
            mine[name] += getattr(row, name)
        for writer, many in row.dropped_by.items():
            mine["dropped_by"][writer] = mine["dropped_by"].get(writer, 0) + many
    for mine in tools.values():
        asked = mine["hits"] + mine["misses"]
        mine["hit_rate"] = mine["hits"] / asked if asked else None
    return sorted(tools.values(), key=lambda mine: (-mine["seconds_saved"], -mine["hits"], mine["tool"]))


def _held(entries: list[Any]) -> list[dict[str, Any]]:
    tools: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = (entry.tool or "(unlabelled)") if entry.is_tool else "(values)"
        mine = tools.setdefault(name, {"tool": name, "entries": 0, "current": 0, "bytes": 0})
        mine["entries"] += 1
        mine["current"] += state(entry) == "current"
        mine["bytes"] += entry.size
    return sorted(tools.values(), key=lambda mine: (-mine["bytes"], mine["tool"]))


def _shown(found: dict[str, Any], since: str) -> RenderableType:
    store = found["store"]
    down = f"  DOWN: {store['down']}" if store.get("down") else ""
    parts: list[RenderableType] = [
        Text(clean(f"{store.get('backend', '')} {store.get('where') or ''}".strip() + down), "bold")
    ]
    if found["entries"] is not None:
        columns = [("tool", "k"), ("entries", "n"), ("current", "n"), ("size", "n")]
        rows = [
            (cut(e["tool"], 40), f"{e['entries']:,}", f"{e['current']:,}", size(e["bytes"])) for e in found["entries"]
        ]
        parts += [Text("\nStored", "bold"), table(columns, rows) if rows else Text("nothing", "dim")]
    parts.append(Text(f"\nThe last {since}", "bold"))
    if found["tools"]:
        parts.append(_figures(found["tools"]))
    else:
        parts.append(Text("No figures: they are recorded where configure(record_stats=True) is in force.", "dim"))
    return Group(*parts)


def _figures(tools: list[dict[str, Any]]) -> RenderableType:
    costs = any(one["cost_saved"] for one in tools)
    narrow = is_narrow()
    rest = (
        ["stale", "invalidations", "loops"] if narrow else ["stale", "expired", "coalesced", "invalidations", "loops"]
    )
    columns = [("tool", "k"), ("hits", "n"), ("misses", "n"), ("rate", "n"), ("saved", "n")]
    columns += [("cost", "n")] if costs else []
    columns += [(_HEADINGS.get(name, name), "n") for name in rest]
    rows = [
        (
            cut(one["tool"], 24 if narrow else 60), f"{one['hits']:,}", f"{one['misses']:,}", percent(one["hit_rate"]), age(one["seconds_saved"]),
            *([f"{one['cost_saved']:.4g}"] if costs else []),
            *(f"{one[name]:,}" for name in rest),
        )
        for one in tools
    ]  # fmt: skip
    return table(columns, rows)
