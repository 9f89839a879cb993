"""``agent-cache doctor``: what is wrong, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from agent_cache.adapters import Policies
from agent_cache.backends.base import Finding
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import clean, out, print_json, said, table
from agent_cache.errors import BackendError, ConfigurationError
from agent_cache.moving import IntegrityReport

__all__ = ["command"]

_MARKS = {"ok": "ok", "warning": "warning", "error": "ERROR"}
_STYLES = {"ok": "", "warning": "yellow", "error": "bold red"}


@click.command("doctor", short_help="Say what is wrong, and what mends it.")
@click.option("--policy", "policy", type=click.Path(path_type=Path), help="Look at this policy file (TOML) too.")
@click.option("--check", is_flag=True, help="Look at every stored entry: checksums, sums, what cannot be read.")
@url_option
@json_option
def command(url: str | None, policy: Path | None, check: bool, as_json: bool) -> int:
    """Look whether the store is reachable and sound, and say what mends what is not.

    Versions, permissions, memory policy, replicas, clock and backplane, as far as the store has them. Without a URL and with
    --policy, the policy file alone. Exit code 1 if anything is an error; warnings do not count.
    """
    found: list[Finding] = []
    if url or policy is None:
        found += _of_store(url, check=check)
    if policy is not None:
        found += policy_findings(policy)
    if as_json:
        print_json([{"level": one.level, "check": one.check, "text": one.text, "fix": one.fix} for one in found])
    else:
        _show(found)
    return 1 if any(one.level == "error" for one in found) else 0


def _of_store(url: str | None, *, check: bool) -> list[Finding]:
    async def work(backend: Any) -> list[Finding]:
        found: list[Finding] = await backend.doctor()
        if check and not any(one.level == "error" for one in found):
            report: IntegrityReport = await backend.integrity_check()
            found += report.findings
            found += [
                Finding(
                    "error", "entries", f"{many} cannot be read: {why}", "integrity_check(repair=True) removes them"
                )
                for why, many in report.broken.items()
            ]
            found.append(Finding("ok", "checked", f"{report.checked:,} entries, {report.outdated:,} of them outdated"))
        return found

    try:
        return in_store(url, work)
    except BackendError as error:
        return [Finding("error", "reachable", str(error), "check address, user and password, and that it runs")]


def policy_findings(file: Path) -> list[Finding]:
    """What is wrong with a policy file."""
    try:
        policies = Policies.from_toml(file)
    except ConfigurationError as error:
        return [Finding("error", "policy", str(error), "mend the file; docs/mcp.md shows its form")]
    found: list[Finding] = []
    tools = [(name, policies.find(name)) for name in policies]
    heads = {_head(text) for _, one in tools if one is not None and one.kind == "write" for text in one.resources}
    for name, one in tools:
        if one is None or one.kind != "read":
            continue
        unwritten = [text for text in one.resources if _head(text) not in heads]
        if unwritten and one.ttl is None:
            text = f"{name} reads {', '.join(unwritten)} for ever: no write of the file drops it and it has no ttl"
            found.append(Finding("warning", "policy", text, "name the tool that writes it, or give ttl = SECONDS"))
    if not tools:
        found.append(Finding("warning", "policy", "it names no tool", "write tables [tools.NAME]"))
    return found or [
        Finding("ok", "policy", f"{file.name}: {len(tools)} tools, every read is dropped by a write or a ttl")
    ]


def _head(resource: str) -> str:
    return resource.replace("/", ":").partition(":")[0]


def _show(found: list[Finding]) -> None:
    made = table([("", "k"), ("check", "k"), ("what", "")], ())
    for one in found:
        what = clean(one.text) + (f"\nFix: {clean(one.fix)}" if one.fix else "")
        mark = Text(_MARKS.get(one.level, one.level), style=_STYLES.get(one.level, ""))
        made.add_row(mark, Text(clean(one.check)), Text(what))
    out().print(made)
    errors = sum(one.level == "error" for one in found)
    warnings = sum(one.level == "warning" for one in found)
    said(f"{errors} errors, {warnings} warnings." if errors + warnings else "All is well.", "dim")
