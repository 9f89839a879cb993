"""``agent-cache export FILE``: what is stored, in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from agent_cache.backends.base import StoredEntry
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import entries_said, print_json, progress, said, size
from agent_cache.moving import MoveReport

__all__ = ["command", "told"]


@click.command("export", short_help="Write what is current into a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--namespace", "namespaces", multiple=True, metavar="NAME", help="Of this namespace; may be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@url_option
@json_option
def command(url: str | None, file: Path, namespaces: tuple[str, ...], overwrite: bool, as_json: bool) -> int:
    """Write what is current into FILE (packed, if it ends in .gz), for `import` into any other store.

    AGENT_CACHE_EXPORT_SECRET authenticates the file.
    """

    if file.exists() and not overwrite:
        raise click.UsageError(f"{str(file)!r} is there already: give --overwrite, or another name")

    async def work(backend: Any) -> MoveReport:
        with _counting("exporting") as seen:
            report: MoveReport = await backend.export(
                file, namespaces=namespaces or None, only=seen, overwrite=overwrite, secret=file_secret()
            )
            return report

    told("exported", in_store(url, work), as_json=as_json)
    return 0


def file_secret() -> str | None:
    return os.environ.get("AGENT_CACHE_EXPORT_SECRET") or None


@contextmanager
def _counting(what: str) -> Iterator[Callable[[StoredEntry], bool]]:
    """A filter that lets everything pass and moves a bar."""
    with progress() as bar:
        task = bar.add_task(what, total=None, done="")
        seen = 0

        def pass_all(_: StoredEntry) -> bool:
            nonlocal seen
            seen += 1
            bar.update(task, done=f"{seen:,} entries")
            return True

        yield pass_all


def told(what: str, report: MoveReport, *, as_json: bool) -> None:
    """What was moved, and what was not and why."""
    if as_json:
        print_json(
            {
                "entries": report.entries,
                "values": report.values,
                "bytes": report.bytes,
                "left_out": dict(report.left_out),
            }
        )
        return
    said(f"{entries_said(report.entries)} and {report.values:,} values {what}, {size(report.bytes)}.")
    for reason, many in sorted(report.left_out.items()):
        said(f"  not {what}: {many:,} ({reason.replace('_', ' ')})", "dim")
