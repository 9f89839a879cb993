"""A policy proposed from the names of tools and from what was observed, with how sure it is.

A guess, to be read by a person: a verb tells reads from writes, an argument such as ``user_id`` names the entity, and the
trace is the judge. A tool whose equal calls gave different answers without a known write in between is not cacheable; one that was
never called twice with equal arguments has shown nothing. The proposal is then simulated on the same trace.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent_cache.adapters import Policies
from agent_cache.simulate.formats import read_trace
from agent_cache.simulate.formats.stream import Progress
from agent_cache.simulate.rules import Rules
from agent_cache.simulate.run import Options, simulate
from agent_cache.simulate.tally import Report
from agent_cache.simulate.traffic import Call, hashed

__all__ = ["Suggested", "Suggestion", "suggest"]

Sureness = Literal["high", "medium", "low", "none"]

_READS = frozenset(
    [
        "get",
        "list",
        "search",
        "find",
        "read",
        "fetch",
        "lookup",
        "query",
        "show",
        "describe",
        "check",
        "view",
        "retrieve",
        "load",
        "count",
        "browse",
        "calculate",
        "compute",
        "convert",
        "resolve",
        "explain",
        "summarize",
        "inspect",
        "status",
        "head",
        "cat",
        "ls",
        "grep",
        "glob",
        "whois",
        "ping",
        "weather",
        "forecast",
        "translate",
    ]
)
_WRITES = frozenset(
    [
        "create",
        "update",
        "delete",
        "remove",
        "set",
        "add",
        "insert",
        "put",
        "post",
        "patch",
        "write",
        "book",
        "cancel",
        "send",
        "pay",
        "buy",
        "purchase",
        "order",
        "submit",
        "modify",
        "change",
        "edit",
        "move",
        "rename",
        "upload",
        "save",
        "store",
        "close",
        "open",
        "assign",
        "transfer",
        "refund",
        "approve",
        "reject",
        "start",
        "stop",
        "restart",
        "deploy",
        "merge",
        "push",
        "commit",
        "apply",
        "enable",
        "disable",
        "register",
        "reset",
        "return",
        "exchange",
        "reply",
        "append",
        "execute",
        "run",
        "trigger",
    ]
)
_TALK = frozenset(
    ["think", "plan", "note", "reflect", "respond", "finish", "done", "answer", "ask", "transfer_to_human_agents"]
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ENTITY = re.compile(r"(?:(\w+?)_)?(id|ids|key|uuid|number|no|slug|name|email|path|url|sku|code|ref)")
_FILLERS = frozenset(
    [
        "all",
        "by",
        "for",
        "from",
        "of",
        "the",
        "my",
        "info",
        "information",
        "details",
        "detail",
        "data",
        "current",
        "user_info",
    ]
)
_MAX_PAIRS = 200_000
_MAX_SUSPECTS = 1_000
_ENOUGH = 5


@dataclass(slots=True)
class _Seen:
    """What a first pass noted of one tool."""

    calls: int = 0
    errors: int = 0
    arguments: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    repeats: int = 0
    changed: int = 0
    changed_alone: int = 0
    suspects: list[frozenset[str]] = field(default_factory=list[frozenset[str]])
    """For each change, the tools that may have written in between."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """One tool's proposed policy. ``sure`` says how much the trace supports it; ``why`` says it in words."""

    tool: str
    kind: str
    resources: tuple[str, ...]
    sure: Sureness
    why: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "tool": self.tool,
            "kind": self.kind,
            "resource": list(self.resources),
            "sure": self.sure,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A proposed policy, and what it would have done on the trace it was made from."""

    tools: tuple[Suggested, ...]
    report: Report

    @property
    def policies(self) -> Policies:
        return _policies(self.tools)

    def as_toml(self) -> str:
        """The policy as a file for the adapters and for ``simulate --policy``; comments say how sure it is."""
        lines = ["# Proposed from recorded traffic. Read it before you use it: names can mislead.", ""]
        for each in self.tools:
            lines += [
                f"# sure: {each.sure}. {each.why}",
                f"[tools.{_toml(each.tool)}]",
                f"kind = {_toml(each.kind)}",
            ]
            if each.resources:
                lines.append(f"resource = [{', '.join(map(_toml, each.resources))}]")
            lines.append("")
        return "\n".join(lines)


def _toml(text: str) -> str:
    """A basic string. JSON's escapes are TOML's too, but for half a surrogate pair, which TOML has no way to say."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def suggest(
    files: Sequence[str | Path], options: Options | None = None, scope: str = "global", progress: Progress | None = None
) -> Suggestion:
    """Propose a policy for these traces, and try it on them. They are read twice, and once more where a read proves unsafe.

    Raises:
        TraceError: a file cannot be read.
    """
    seen = _look(files, progress)
    kinds = {tool: _kind(tool) for tool in seen}
    proposed = {tool: _proposal(tool, kinds, seen) for tool in seen}
    chosen = tuple(proposed[tool] for tool in sorted(proposed, key=lambda t: (proposed[t].kind, t)))
    report = simulate(files, _rules(chosen, scope), options, progress)
    widened = _widened(chosen, report, seen)
    if widened != chosen:
        report = simulate(files, _rules(widened, scope), options, progress)
    judged = tuple(_judged(each, report) for each in widened)
    if [each.kind for each in judged] != [each.kind for each in widened]:
        report = simulate(files, _rules(judged, scope), options, progress)
    return Suggestion(judged, report)


def _rules(tools: Iterable[Suggested], scope: str) -> Rules:
    return Rules(_policies(tools), scope=scope)


def _policies(tools: Iterable[Suggested]) -> Policies:
    return Policies({each.tool: {"kind": each.kind, "resource": list(each.resources)} for each in tools})


# -- what is seen --------------------------------------------------------------------------------------------------------


def _look(files: Sequence[str | Path], progress: Progress | None) -> dict[str, _Seen]:
    """One pass: names, arguments, fields of answers, and equal calls whose answers differ."""
    seen: dict[str, _Seen] = {}
    last: dict[int, tuple[int, int]] = {}
    wrote: dict[str, int] = {}
    position = 0
    for file in files:
        for event in read_trace(Path(file), progress):
            if not isinstance(event, Call):
                continue
            noted = seen.setdefault(event.tool, _Seen())
            _note(noted, event)
            position += 1
            if _kind(event.tool) == "write":
                wrote[event.tool] = position
            if event.result is None or not event.told:
                continue
            key = hashed([event.tool, dict(event.arguments)])
            before = last.get(key)
            if before is not None:
                noted.repeats += 1
                if before[0] != event.result:
                    noted.changed += 1
                    between = frozenset(tool for tool, at in wrote.items() if at > before[1])
                    noted.changed_alone += not between
                    if len(noted.suspects) < _MAX_SUSPECTS:
                        noted.suspects.append(between)
            if before is not None or len(last) < _MAX_PAIRS:
                last[key] = event.result, position
    return seen


def _note(noted: _Seen, call: Call) -> None:
    noted.calls += 1
    noted.errors += call.error
    if call.kind is not None:
        noted.kinds[call.kind] += 1
    for name, value in call.arguments.items():
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            noted.arguments[name] += 1
    if noted.calls <= _ENOUGH * 10 and call.shown.startswith("{") and call.whole:
        try:
            answer = json.loads(call.shown)
        except (ValueError, RecursionError):
            return
        if isinstance(answer, Mapping):
            noted.answers.update(name for name, value in answer.items() if isinstance(value, (str, int)))


# -- what is made of it ---------------------------------------------------------------------------------------------------


def _words(tool: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(tool)]


def _kind(tool: str) -> str:
    """By the words of its name: the first verb that is known decides; what is not known may be a write."""
    if tool.lower() in _TALK:
        return "other"
    for word in _words(tool):
        if word in _TALK:
            return "other"
        if word in _WRITES:
            return "write"
        if word in _READS:
            return "read"
    return "write"


def _noun(tool: str) -> str:
    """What the tool is about: the last words of its name that are neither verb nor filler, in the singular."""
    nouns = [w for w in _words(tool) if w not in _READS and w not in _WRITES and w not in _FILLERS and not w.isdigit()]
    if not nouns and len(_words(tool)) > 1:
        nouns = [word for word in _words(tool)[1:] if word not in _FILLERS]  # get_weather
    return _singular(nouns[-1]) if nouns else ""


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _entities(tool: str, noted: _Seen) -> dict[str, str]:
    """Arguments that name an entity: the resource of each, by the argument's name. One argument for each resource."""
    best: dict[str, tuple[int, str]] = {}
    for name, count in noted.arguments.items():
        match = _ENTITY.fullmatch(name)
        if match is None or count < noted.calls / 2:
            continue
        resource = _singular(match[1]) if match[1] else _noun(tool)
        rank = 0 if match[1] else 1 if match[2] in ("id", "uuid", "key") else 2
        if resource and (resource not in best or rank < best[resource][0]):
            best[resource] = rank, name
    return {name: resource for resource, (_, name) in best.items()}


def _proposal(tool: str, kinds: Mapping[str, str], seen: Mapping[str, _Seen]) -> Suggested:
    kind, noted = kinds[tool], seen[tool]
    if kind == "other":
        return Suggested(
            tool, "other", (), "medium", "Its name says that it neither reads nor changes anything outside."
        )
    entities = _entities(tool, noted)
    if kind == "read":
        return Suggested(tool, "read", _read_resources(tool, entities), *_sureness(noted))
    resources = _write_resources(tool, entities, kinds, seen)
    if resources:
        return Suggested(tool, "write", resources, "medium", "Its name says that it writes; its arguments say what.")
    every = sorted(
        {r.split(":")[0] for t, k in kinds.items() if k == "read" for r in _read_resources(t, _entities(t, seen[t]))}
    )
    why = "Nothing says what it writes, so it drops everything that is read."
    return Suggested(tool, "write", tuple(every) or ("anything",), "low", why)


def _read_resources(tool: str, entities: Mapping[str, str]) -> tuple[str, ...]:
    noun = _noun(tool) or "answer"
    own = next((name for name, resource in entities.items() if resource == noun), None)
    if own is not None:
        return (f"{noun}:{{{own}}}",)
    if len(entities) == 1:  # list_orders(user_id): of that user, and changed with any order
        name, resource = next(iter(entities.items()))
        return (f"{resource}:{{{name}}}", noun)
    return (noun,)


def _write_resources(
    tool: str, entities: Mapping[str, str], kinds: Mapping[str, str], seen: Mapping[str, _Seen]
) -> tuple[str, ...]:
    read = {r.split(":")[0] for t, k in kinds.items() if k == "read" for r in _read_resources(t, _entities(t, seen[t]))}
    found = {resource: f"{resource}:{{{name}}}" for name, resource in entities.items() if resource in read}
    noun = _noun(tool)
    if noun in read and noun not in found:
        named = f"{noun}_id"
        found[noun] = f"{noun}:{{result.{named}}}" if named in seen[tool].answers else noun
    return tuple(found.values())


def _sureness(noted: _Seen) -> tuple[Sureness, str]:
    if noted.changed_alone:
        text = f"{noted.changed_alone} of {noted.repeats} equal calls were answered differently though nothing was written."
        return "none", text
    if noted.repeats and noted.changed == noted.repeats:
        return "low", f"All {noted.repeats} calls made again were answered differently: there is nothing to save."
    if not noted.repeats:
        return "low", "No call was made twice with equal arguments: the trace shows nothing about it."
    if noted.repeats < _ENOUGH:
        return (
            "medium",
            f"Only {noted.repeats} of its calls had been made before with equal arguments; {_differed(noted)}.",
        )
    return "high", f"{noted.repeats} of its calls had been made before with equal arguments; {_differed(noted)}."


def _differed(noted: _Seen) -> str:
    if not noted.changed:
        return "none was answered differently"
    return f"{noted.changed} had another answer, always after a write"


def _widened(tools: tuple[Suggested, ...], report: Report, seen: Mapping[str, _Seen]) -> tuple[Suggested, ...]:
    """Where a read would have been stale: the fewest writes that explain its changes drop all of what it reads as well."""
    more: dict[str, list[str]] = {}
    for each in tools:
        if each.kind != "read" or not report.tools[each.tool].stale or seen[each.tool].changed_alone:
            continue
        head = each.resources[0].split(":")[0]
        names = {o.tool for o in tools if o.kind == "write" and all(r.split(":")[0] != head for r in o.resources)}
        open_changes = [suspects & names for suspects in seen[each.tool].suspects if suspects & names]
        while open_changes:
            worst = Counter(tool for suspects in open_changes for tool in suspects).most_common(1)[0][0]
            more.setdefault(worst, []).append(head)
            open_changes = [suspects for suspects in open_changes if worst not in suspects]
    return tuple(_with(each, more.get(each.tool, ())) for each in tools)


def _with(each: Suggested, heads: Sequence[str]) -> Suggested:
    if not heads:
        return each
    kept = tuple(r for r in each.resources if r.split(":")[0] not in heads)
    why = f"{each.why} Reads of {', '.join(heads)} changed after it, so it drops all of that."
    return Suggested(each.tool, each.kind, (*kept, *heads), "low", why)


def _judged(each: Suggested, report: Report) -> Suggested:
    """A read that would have been answered wrongly, or whose answers change by themselves, is not to be cached."""
    if each.kind != "read":
        return each
    tally = report.tools[each.tool]
    if tally.stale:
        text = f"{tally.stale:.0f} of {tally.hits:.0f} hits would have been stale: a write to it is not known. Not cacheable as it is."
        return Suggested(each.tool, "other", (), "none", text)
    if each.sure == "none":
        return Suggested(each.tool, "other", (), "none", f"{each.why} Not cacheable without a ttl you can live with.")
    return each
