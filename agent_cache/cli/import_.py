"""``agent-cache import FILE``: take in what `export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent_cache.cli.chosen import seconds_of
from agent_cache.cli.export import file_secret, told
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import progress, size
from agent_cache.moving import MoveReport

__all__ = ["command"]


@click.command("import", short_help="Store what is in an exported file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--namespace", "namespaces", multiple=True, metavar="NAME", help="Of this namespace; may be repeated.")
@click.option("--max-age", metavar="DURATION", help="Leave out what was loaded longer ago: 90, 15m, 2h, 7d.")
@click.option("--replace", is_flag=True, help="Replace what is stored already.")
@click.option("--frozen", is_flag=True, help="Ages and ttls go on from where they were when the file was made.")
@url_option
@json_option
def command(
    url: str | None,
    file: Path,
    namespaces: tuple[str, ...],
    max_age: str | None,
    replace: bool,
    frozen: bool,
    as_json: bool,
) -> int:
    """Store what is in FILE. By this you say that it is still true: writes since the export are not known to it.

    All of the file is checked first. AGENT_CACHE_EXPORT_SECRET has to be the one it was made with.
    """
    oldest = seconds_of(max_age, "--max-age") if max_age is not None else None

    heavy = size(file.stat().st_size) if file.is_file() else ""

    async def work(backend: Any) -> MoveReport:
        with progress() as bar:
            bar.add_task("importing", total=None, done=heavy)
            report: MoveReport = await backend.import_(
                file,
                namespaces=namespaces or None,
                max_age=oldest,
                replace=replace,
                frozen=frozen,
                secret=file_secret(),
            )
            return report

    told("imported", in_store(url, work, new_ok=True), as_json=as_json)
    return 0
