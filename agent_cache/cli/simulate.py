"""``agent-cache simulate TRACE…``: what a policy would have saved on recorded traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from agent_cache.cli.chosen import seconds_of
from agent_cache.cli.opened import json_option
from agent_cache.cli.shown import age, cut, in_utf8, is_narrow, out, print_json, progress, said, size, table
from agent_cache.pages.simulation import simulation_page
from agent_cache.pages.words import percent
from agent_cache.simulate import Options, Report, Rules, Suggestion, simulate, suggest

__all__ = ["command"]


@click.command("simulate", short_help="Say what a cache would have saved.")
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path))
@click.option("--read", "reads", multiple=True, metavar="TOOL:RESOURCE", help="Reads, such as 'get_*:user:{user_id}'.")
@click.option(
    "--write", "writes", multiple=True, metavar="TOOL:RESOURCE", help="Writes, such as 'set_*:user:{user_id}'."
)
@click.option("--policy", type=click.Path(path_type=Path), help="A policy file (TOML) instead of --read and --write.")
@click.option("--suggest", "propose", is_flag=True, help="Propose a policy, say how sure it is, and try it.")
@click.option(
    "--scope", default="global", show_default=True, help="Who shares: global, session, lineage or an identity field."
)
@click.option(
    "--drops", type=click.Choice(["entity", "resource", "everything", "nothing"]), default="entity", show_default=True
)
@click.option(
    "--refused-writes",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="Whether a write answered by an error drops.",
)
@click.option("--ttl", metavar="DURATION", help="How long an answer may be served: 90, 15m, 2h, 7d.")
@click.option("--no-loops", is_flag=True, help="Do not look for loops.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for people, too.")
@json_option
def command(
    traces: tuple[Path, ...], reads: tuple[str, ...], writes: tuple[str, ...], policy: Path | None, propose: bool,
    scope: str, drops: Any, refused_writes: Any, ttl: str | None, no_loops: bool, page: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Say what a cache would have saved on recorded traffic, before a line is changed.

    TRACE is JSON or JSON Lines, gzipped or plain: chat-completions messages, LangChain messages, OpenTelemetry spans, or
    plain lines of calls; - is standard input. Without a policy: what the traces themselves say of their calls.
    """
    if (policy is not None) + bool(reads or writes) + propose > 1:
        raise click.UsageError("give one of --policy, --read/--write and --suggest")
    if propose and Path("-") in traces:
        raise click.UsageError("--suggest reads the traces more than once, which standard input cannot be")
    options = Options(ttl=seconds_of(ttl, "--ttl") if ttl is not None else None, detect_loops=not no_loops)
    suggestion: Suggestion | None = None
    with _reading(traces, quiet=False) as read:
        if propose:
            suggestion = suggest(list(traces), options, scope, read)
            report = suggestion.report
        else:
            how: dict[str, Any] = {"scope": scope, "drops": drops, "refused_writes": refused_writes}
            rules = Rules.from_toml(policy, **how) if policy is not None else Rules.from_flags(reads, writes, **how)
            report = simulate(list(traces), rules, options, read)
    if page is not None:
        page.write_bytes(in_utf8(simulation_page(report, suggestion)))
    if as_json:
        told = report.as_dict()
        if suggestion is not None:
            told |= {"suggested": [one.as_dict() for one in suggestion.tools], "toml": suggestion.as_toml()}
        print_json(told)
        return 0
    _show(report)
    if suggestion is not None:
        _show_suggestion(suggestion)
    if page is not None:
        said(f"The page is {page}.", "dim")
    return 0


@contextmanager
def _reading(traces: tuple[Path, ...], *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of all files; a file that is read again makes the bar go on, not back."""
    whole = sum(path.stat().st_size for path in traces if path.is_file()) or None
    with progress(quiet=quiet) as bar:
        task = bar.add_task("reading", total=whole, done="")
        done = 0

        def read(many: int) -> None:
            nonlocal done
            done += many
            again = whole is not None and done > whole
            bar.update(task, completed=done % whole if again and whole else done, done=size(done))

        yield read


def _show(report: Report) -> None:
    total = report.total
    timed = total.saved is not None
    columns = [("tool", "k"), ("kind", ""), ("calls", "n"), ("repeats", "n"), ("hits", "n"), ("stale", "n")]
    columns += [("ttl stale", "n"), ("best", "n"), *([("saved", "n")] if timed else [])]
    ranked = sorted(report.tools.values(), key=lambda one: (-one.hits, -one.calls, one.tool))
    rows = [
        (
            cut(one.tool, 24 if is_narrow() else 60), one.kind, f"{one.calls:,.0f}",
            f"{one.repeats_within + one.repeats_across:,.0f}", f"{one.hits:,.0f}", f"{one.stale:,.0f}",
            f"{one.ttl_stale:,.0f}", f"{one.best:,.0f}", *([age(one.saved)] if timed else []),
        )
        for one in [*ranked, total]
    ]  # fmt: skip
    out().print(table(columns, rows, styles=[*("" for _ in ranked), "bold"]))
    share = f"{total.hits:,.0f} of {report.reads:,.0f} reads would not have been made ({percent(report.hit_rate)})"
    said(f"{share}, {report.sessions:,} sessions; policy {report.policy}.")
    if total.saved is not None and total.seconds:
        said(f"{age(total.saved)} of {age(total.seconds)} saved.")
    if total.ttl_stale:
        said(f"A cache that knows a ttl only would have served {total.ttl_stale:,.0f} wrong answers.")
    if total.stale:
        said(
            f"{total.stale:,.0f} hits differ from what the trace has: a write is tagged too narrowly, or not known.",
            "yellow",
        )
    if report.loop_count:
        said(
            f"{report.loop_count:,} loops; {report.loop_calls:,} calls were made after the point at which they would have been stopped:"
        )
        for loop in report.loops[:5]:
            said(f"  {cut(loop.session, 40)} before call {loop.step}: {loop.kind} of {loop.tool} ({loop.count})", "dim")
    for note in report.notes:
        said(note, "dim")


def _show_suggestion(suggestion: Suggestion) -> None:
    columns = [("tool", ""), ("kind", ""), ("resource", ""), ("sure", "k"), ("why", "")]
    rows = [(one.tool, one.kind, ", ".join(one.resources), one.sure, one.why) for one in suggestion.tools]
    said('A proposal, to be read before it is used (as a file: "toml" of --json):', "bold")
    out().print(table(columns, rows))
