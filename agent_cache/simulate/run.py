"""One pass over recorded traffic: each call is put to the rules, the ledger and the loop detector, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_cache.audit import overlap
from agent_cache.errors import ConfigurationError
from agent_cache.simulate.formats import read_trace
from agent_cache.simulate.formats.stream import Progress
from agent_cache.simulate.ledger import Held, Known, Ledger
from agent_cache.simulate.loops import LoopWatch
from agent_cache.simulate.rules import Rules, Said
from agent_cache.simulate.tally import Report, ToolTally
from agent_cache.simulate.traffic import Call, TraceError, Turn, hashed

__all__ = ["Options", "simulate"]

_LEAST_LIMIT = 1_000
_MAX_SESSIONS = 100_000
_MAX_TOOLS = 10_000


@dataclass(frozen=True, slots=True)
class Options:
    """How to simulate.

    Attributes:
        ttl: seconds a stored answer may be served, where the policy does not say; None = as long as nothing drops it.
            Counts only where the trace says when calls were made.
        limit: how many different calls are remembered; past it, the figures are estimates from a sample of the keys.
        detect_loops: ask the loop detector.
        max_tool_repeats: as on :class:`~agent_cache.AgentCacheSession`.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    ttl: float | None = None
    limit: int = 150_000
    detect_loops: bool = True
    max_tool_repeats: int = 5

    def __post_init__(self) -> None:
        if self.ttl is not None and not self.ttl > 0:
            raise ConfigurationError("ttl", self.ttl, "give seconds, more than 0, or None")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < _LEAST_LIMIT:
            raise ConfigurationError("limit", self.limit, f"give a whole number from {_LEAST_LIMIT}")


def simulate(
    files: Sequence[str | Path], rules: Rules, options: Options | None = None, progress: Progress | None = None
) -> Report:
    """What a cache with this policy would have done on this traffic.

    Args:
        files: traces (:mod:`agent_cache.simulate.formats`), read one after the other as one history.
        rules: the policy.
        options: what else.
        progress: told how many bytes were read.

    Raises:
        TraceError: a file cannot be read.
    """
    report = Report(_named(rules), tuple(str(file) for file in files))
    run = _Run(rules, options or Options(), report)
    for file in files:
        run.all(read_trace(Path(file), progress))
    run.end()
    return report


def _named(rules: Rules) -> str:
    policy = "as recorded" if rules.policies is None else "as given"
    kept = ", refused writes drop nothing" if rules.refused_writes == "keep" else ""
    return f"{policy}, {rules.scope}, writes drop {rules.drops}{kept}"


class _Run:
    def __init__(self, rules: Rules, options: Options, report: Report) -> None:
        self._rules = rules
        self._options = options
        self._report = report
        self._ledger = Ledger(options.limit)
        self._loops = LoopWatch(report, options.max_tool_repeats) if options.detect_loops else None
        self._lineages: dict[str, list[tuple[tuple[tuple[str, ...], ...] | None, int]]] = {}
        self._sessions: set[int] = set()
        self._position = 0
        self._timed = self._untimed = False
        self._untold = 0

    def all(self, events: Iterable[Call | Turn]) -> None:
        for event in events:
            if isinstance(event, Call):
                try:
                    self._call(event)
                except RecursionError:
                    text = f"call {self._position} of the trace, of {event.tool!r}, is nested too deeply"
                    raise TraceError(text) from None
            elif event.ended:
                self._ended(event.session)
            elif self._loops is not None:
                self._loops.spoke(event.session)

    def end(self) -> None:
        if self._loops is not None:
            self._loops.all_ended()
        self._report.sessions = len(self._sessions)
        self._report.sampled = 1 / self._ledger.weight
        self._report.notes = tuple(self._notes())

    def _ended(self, session: str) -> None:
        self._lineages.pop(session, None)
        if self._loops is not None:
            self._loops.ended(session)

    def _call(self, call: Call) -> None:
        self._position += 1
        said = self._rules.of(call)
        tally = self._report.tool(call.tool if len(self._report.tools) < _MAX_TOOLS else "(other tools)")
        if said.kind != "unknown" or tally.kind == "unknown":
            tally.kind = said.kind
        tally.calls += 1
        tally.errors += call.error
        if len(self._sessions) < _MAX_SESSIONS:
            self._sessions.add(hashed(call.session))
        if call.at is None:
            self._untimed = True
        else:
            self._timed = True
        if self._loops is not None and call.told:
            self._loops.call(call, write=said.kind == "write", poll=said.poll)
        if call.result is None:
            tally.unanswered += 1
        self._untold += not call.told
        tally.took(call.seconds, self._key(call, said, tally) if call.told else 0.0)
        if said.kind == "write":
            self._write(call, said)

    def _write(self, call: Call, said: Said) -> None:
        if said.chain is None:
            return  # it drops nothing
        self._ledger.versions.move(said.tags, self._position)
        if self._rules.scope == "lineage":
            links = self._lineages.setdefault(call.session, [])
            before = links[-1][1] if links else 0
            link = hashed(f"{before}|{call.tool}|{_key_of(call, ())}|{call.result}|{call.error}")
            links.append((said.paths, link))

    def _key(self, call: Call, said: Said, tally: ToolTally) -> float:
        """Count repeats and hits of the call's key; how much of its time is saved, in calls."""
        key = _key_of(call, said.ignore)
        known = self._ledger.known(key)
        if known is None:
            if said.kind == "read" and (said.paths is None or said.chain is None):
                tally.uncached += 1
            return 0.0
        size, weight = known.size, self._ledger.weight
        before = known.seen_by(hashed(call.session))
        if before:
            tally.repeats_within += weight
        elif before is not None:
            tally.repeats_across += weight
        saved = self._read(call, said, known, tally, weight) if said.kind == "read" else 0.0
        self._ledger.grown(known.size - size)
        return saved

    def _read(self, call: Call, said: Said, known: Known, tally: ToolTally, weight: float) -> float:
        if said.paths is None or said.chain is None:
            tally.uncached += 1
            return 0.0
        if call.result is None:
            return 0.0
        whose = hashed(repr(said.chain))
        held = known.held(whose)
        self._others(call, held, tally, weight)
        if said.lineage:
            held = known.held(self._lineage(call, said.paths))
        ttl = said.ttl if said.ttl is not None else self._options.ttl
        fresh = held.stored is not None and _fresh(held.stored_at, call, ttl)
        if fresh and (said.lineage or self._ledger.versions.newest(said.tags) <= held.stored_from):
            tally.hits += weight
            tally.stale += weight * (held.stored != call.result)
            return weight
        if not call.raised:
            held.stored, held.stored_from, held.stored_at = call.result, self._position, call.at
        return 0.0

    def _others(self, call: Call, held: Held, tally: ToolTally, weight: float) -> None:
        """The same call put to a cache that knows a ttl only, and to the best there could be."""
        if held.timed is not None and _fresh(held.timed_at, call, self._options.ttl):
            tally.ttl_hits += weight
            tally.ttl_stale += weight * (held.timed != call.result)
        elif not call.raised:
            held.timed, held.timed_at = call.result, call.at
        if held.best is not None and held.best == call.result:
            tally.best += weight
        elif not call.raised:
            held.best = call.result

    def _lineage(self, call: Call, paths: tuple[tuple[str, ...], ...]) -> int:
        """The writes this session has made so far to what is read, in order."""
        links = self._lineages.get(call.session, ())
        return hashed(
            "|".join(
                str(link)
                for written, link in links
                if written is None or any(overlap(w, r) for w in written for r in paths)
            )
        )

    def _notes(self) -> Iterable[str]:
        if self._report.sampled < 1:
            yield f"Figures of repeats, hits and savings are estimates from {self._report.sampled:.1%} of the keys."
        if self._options.ttl is not None and self._untimed:
            yield "The trace does not say when all of its calls were made: there the ttl is not applied."
        unknown = [t.tool for t in self._report.tools.values() if t.kind == "unknown"]
        if unknown:
            yield f"No policy names {len(unknown)} of the tools ({_some(sorted(unknown))}): they are counted and not cached."
        policies = self._rules.policies
        if policies is not None and len(self._report.tools) < _MAX_TOOLS:
            unused = list(policies.unused(self._report.tools))
            if unused:
                tools = _some(sorted(self._report.tools)) or "none"
                yield f"No call fits {_some([*map(repr, unused)])}; the tools of the trace are {tools}."
        if self._loops is not None and self._loops.given_up:
            yield f"{self._loops.given_up} sessions were interleaved too widely to follow their loops to the end."
        if self._untold:
            yield (
                f"The trace does not say with which arguments {self._untold:,} calls were made: they are counted, and no "
                "repeat, hit or loop of them is. Tell the instrumentation to record arguments and results."
            )
        if any(t.unanswered for t in self._report.tools.values()):
            yield "Calls whose result the trace does not have are counted, and nothing is said of them."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _key_of(call: Call, ignore: tuple[str, ...]) -> int:
    arguments = call.arguments
    if ignore:
        arguments = {name: value for name, value in arguments.items() if name not in ignore}
    return hashed([call.tool, dict(arguments)])


def _fresh(stored_at: float | None, call: Call, ttl: float | None) -> bool:
    if ttl is None or stored_at is None or call.at is None:
        return True
    return call.at - stored_at < ttl
