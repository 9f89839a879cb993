"""Score the loop detector on labelled traces, beside plain re-implementations of public ones.

    python benchmarks/loops.py [--data DIR] [--json] [--verbose]

Two readings of each trace: *observed*, every call told to the session after it was made (`session.observe`), and *decorated*,
every call made through a decorated tool that keeps nothing, so that the detector is asked before. The public detectors
are written anew from the tables of behaviour in `data/README.md`, with their default thresholds; where one of them reacts
in steps, the step that stops the call counts.

A detector is right on a loop when it fires at or before the case's `by_step`, and on honest work when it never fires. The
budget of calls is not a loop and does not count. *Wasted* is the mean number of calls from the earliest step at which the
pattern was visible (a call's third equal outcome, or a tool's third equal error) to where it fired; a loop that was missed
counts to its end. Cases on which public detectors disagree are listed and not scored.

Then all recorded sessions: how many are flagged. Exit code: 0 all well; 1 a goal is missed; 2 the data is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, AgentLoopDetectedError, MemoryBackend
from agent_cache.loops.outcomes import masked

HERE = Path(__file__).resolve().parent
CASES = "loop_cases.json"
WORKLOADS = ("tau1_airline_gpt4o", "tau2_airline_whissle")
RECALL = 0.95
FLAGGED = 0.01
HUGE = 10**9


class DataMissing(Exception):
    """The cases are not where they were looked for."""


@dataclass(frozen=True)
class Call:
    """One call of a trace, or a message of the user (no tool)."""

    tool: str | None
    args: Any = None
    result: Any = None
    error: str | None = None
    session: str = ""
    write: bool = False

    @property
    def exact(self) -> str:
        return f"{self.tool} {json.dumps(self.args, sort_keys=True)}"

    @property
    def as_written(self) -> str:
        return f"{self.tool} {json.dumps(self.args)}"

    @property
    def outcome(self) -> str:
        return json.dumps([self.result, self.error], sort_keys=True)


@dataclass(frozen=True)
class Case:
    """A trace with its verdict."""

    name: str
    category: str
    loop: bool
    by_step: int | None
    contested: bool
    calls: tuple[Call, ...]

    @property
    def steps(self) -> int:
        return sum(call.tool is not None for call in self.calls)

    @property
    def visible_at(self) -> int | None:
        """The earliest step at which somebody who sees everything could have said so."""
        calls: Counter[Any] = Counter()
        errors: Counter[Any] = Counter()
        step = 0
        for call in self.calls:
            if call.tool is None:
                calls.clear()
                errors.clear()
                continue
            step += 1
            said = " ".join(sorted(json.dumps(call.args, sort_keys=True).lower().split()))
            what = call.session, call.tool, said, masked(call.outcome, write=call.write)
            calls[what] += 1
            if call.error:
                errors[call.session, call.tool, call.error] += 1
            if calls[what] == 3 or errors[call.session, call.tool, call.error] == 3:
                return step
        return None


# ---------------------------------------------------------------------------------------------- detectors of others


class Detector(Protocol):
    """Fed with one call after the other, of one session; true where it would stop."""

    def call(self, call: Call) -> bool: ...
    def user(self) -> None: ...


class Windowed:
    """What most of them keep: the last calls as text."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def user(self) -> None:
        self.seen.clear()

    def run(self) -> int:
        """How many of the last are equal."""
        count = 0
        for each in reversed(self.seen):
            if each != self.seen[-1]:
                break
            count += 1
        return count

    def turns(self, period: int) -> int:
        """How often the last `period` have been gone through, one after the other."""
        turn, count = self.seen[-period:], 0
        while self.seen[len(self.seen) - (count + 1) * period : len(self.seen) - count * period] == turn:
            count += 1
            if (count + 1) * period > len(self.seen):
                break
        return count


class OpenHands(Windowed):
    """Four equal pairs of action and observation; A B three times with equal results; four equal failing actions."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def user(self) -> None:
        super().user()
        self.errors.clear()

    def call(self, call: Call) -> bool:
        self.seen = [*self.seen, f"{call.as_written} {call.outcome}"][-20:]
        self.errors = [*self.errors, call.as_written] if call.error else []
        failing = len(self.errors) >= 4 and len(set(self.errors[-4:])) == 1
        return (
            self.run() >= 4 or failing or (len(self.seen) >= 6 and len(set(self.seen[-2:])) == 2 and self.turns(2) >= 3)
        )


class GeminiCli(Windowed):
    """Five equal calls in a row, the order of keys counting; cycles of up to five calls, five times in a row."""

    def call(self, call: Call) -> bool:
        self.seen = [*self.seen, call.as_written][-25:]
        return any(len(self.seen) >= 5 * period and self.turns(period) >= 5 for period in range(1, 6))


class QwenCode(Windowed):
    """Five equal calls in a row, six anywhere, A B three times; results are looked at for few tools, so not here."""

    def call(self, call: Call) -> bool:
        self.seen.append(call.exact)
        cycle = len(self.seen) >= 6 and len(set(self.seen[-2:])) == 2 and self.turns(2) >= 3
        return self.run() >= 5 or self.seen.count(call.exact) >= 6 or cycle


class RooCode(Windowed):
    """The fourth equal call in a row is blocked."""

    def call(self, call: Call) -> bool:
        self.seen.append(call.exact)
        return self.run() >= 4


class Cline(Windowed):
    """Five equal calls in a row; six mistakes."""

    def __init__(self) -> None:
        super().__init__()
        self.mistakes = 0

    def user(self) -> None:
        """Nothing: its counts last for a run."""

    def call(self, call: Call) -> bool:
        self.seen.append(call.exact)
        self.mistakes += call.error is not None
        return self.run() >= 5 or self.mistakes >= 6


_VOLATILE = re.compile(r'"(durationMs|cwd|pid|runId|messageId|timestamp|startedAt|endedAt)\\?": ?(\\?"[^"]*"|[\d.]+)')


class OpenClaw(Windowed):
    """Twenty of the last thirty calls equal, with equal results but for volatile fields; A B ten times with stable ones."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, str] = {}

    def user(self) -> None:
        """Nothing: its history lasts for a run."""

    def call(self, call: Call) -> bool:
        result = _VOLATILE.sub("", call.outcome.replace('\\"', '"'))
        if self.results.setdefault(call.exact, result) != result:
            self.results[call.exact] = result
            self.seen = [each for each in self.seen if each != call.exact]
        self.seen = [*self.seen, call.exact][-30:]
        cycle = len(self.seen) >= 20 and len(set(self.seen[-2:])) == 2 and self.turns(2) >= 10
        return self.seen.count(call.exact) >= 20 or cycle


class Counting(Windowed):
    """A plain counter of (tool, arguments): the sixth stops, or the fifty-first call of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.calls = 0

    def user(self) -> None:
        """Nothing: its counts last for a session."""

    def call(self, call: Call) -> bool:
        self.calls += 1
        self.counts[call.exact] += 1
        return self.counts[call.exact] > 5 or self.calls > 50


RIVALS: dict[str, Callable[[], Detector]] = {
    "OpenHands": OpenHands,
    "gemini-cli": GeminiCli,
    "qwen-code": QwenCode,
    "Roo-Code": RooCode,
    "Cline": Cline,
    "openclaw": OpenClaw,
    "a counter, 5 and 50": Counting,
}


def fired_by(make: Callable[[], Detector], calls: Iterable[Call]) -> int | None:
    """The step at which a detector fires, one of its kind per session."""
    sessions: dict[str, Detector] = defaultdict(make)
    step = 0
    for call in calls:
        if call.tool is None:
            for detector in sessions.values():
                detector.user()
            continue
        step += 1
        if sessions[call.session].call(call):
            return step
    return None


# ----------------------------------------------------------------------------------------------------------- ours


class ToolFailed(Exception):
    """A recorded error."""


def fired_observed(calls: Iterable[Call]) -> int | None:
    """The step at which ours fires when it is told of each call after it was made."""
    sessions: dict[str, AgentCacheSession] = {}
    step = 0
    for call in calls:
        if call.tool is None:
            for session in sessions.values():
                session.new_turn()
            continue
        step += 1
        if call.session not in sessions:
            session = sessions[call.session] = AgentCacheSession(max_execution_depth=HUGE)
            with session:  # entered and left: its detector goes on, and nothing else of it is asked for
                pass
        try:
            sessions[call.session].observe(call.tool, call.args, call.result, error=call.error, write=call.write)
        except AgentLoopDetectedError:
            return step
    return None


class Toolbox:
    """Decorated tools that answer with what was recorded, and whose answers are not kept."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.tools: dict[tuple[str, bool], Any] = {}
        self.now: Call | None = None

    def tool(self, call: Call) -> Any:
        name = call.tool or ""
        made = self.tools.get((name, call.write))
        if made is None:

            async def run(**args: Any) -> Any:
                assert self.now is not None
                if self.now.error is not None:
                    raise ToolFailed(self.now.error)
                return self.now.result

            run.__name__ = run.__qualname__ = name
            decorate: Any = AgentCacheInvalidator("written", backend=self.backend)
            if not call.write:
                decorate = AgentCache(f"read {name}", backend=self.backend, cache_if=lambda _: False)
            made = self.tools[name, call.write] = decorate(run)
        return made


async def fired_decorated(calls: Iterable[Call]) -> int | None:
    """The step at which ours fires when it is asked before each call."""
    toolbox, step = Toolbox(), 0
    sessions: dict[str, AgentCacheSession] = {}
    async with AsyncExitStack() as stack:
        for call in calls:
            if call.tool is None:
                for session in sessions.values():
                    session.new_turn()
                continue
            step += 1
            if call.session not in sessions:
                await stack.aclose()  # one after the other, as they were recorded
                sessions[call.session] = await stack.enter_async_context(AgentCacheSession(max_execution_depth=HUGE))
            toolbox.now = call
            try:
                await toolbox.tool(call)(**call.args)
            except AgentLoopDetectedError:
                return step
            except ToolFailed:
                pass
    return None


# ---------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Score:
    """What one detector did on all scored cases."""

    name: str
    found: int
    missed: tuple[str, ...]
    late: tuple[str, ...]
    false_alarms: tuple[str, ...]
    wasted: float

    @property
    def precision(self) -> float:
        fired = self.found + len(self.false_alarms)
        return self.found / fired if fired else 1.0

    @property
    def recall(self) -> float:
        loops = self.found + len(self.missed) + len(self.late)
        return self.found / loops if loops else 1.0


def score(name: str, cases: Sequence[Case], fired: Callable[[Case], int | None]) -> Score:
    found, missed, late, alarms, wasted = 0, [], [], [], []
    for case in cases:
        step = fired(case)
        if not case.loop:
            if step is not None:
                alarms.append(case.name)
            continue
        wasted.append((step or case.steps) - (case.visible_at or 0))
        if step is None:
            missed.append(case.name)
        elif case.by_step is not None and step > case.by_step:
            late.append(case.name)
        else:
            found += 1
    return Score(name, found, tuple(missed), tuple(late), tuple(alarms), sum(wasted) / max(1, len(wasted)))


def all_scores(cases: Sequence[Case]) -> list[Score]:
    scored = [case for case in cases if not case.contested]
    scores = [
        score("agent_cache, observed", scored, lambda case: fired_observed(case.calls)),
        score("agent_cache, decorated", scored, lambda case: asyncio.run(fired_decorated(case.calls))),
    ]
    for name, make in RIVALS.items():
        scores.append(score(name, scored, lambda case, make=make: fired_by(make, case.calls)))  # type: ignore[misc]
    return scores


# ------------------------------------------------------------------------------------------------------------ data


def read(folder: Path, name: str) -> str:
    """A data file, gzipped or plain."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            raw = path.read_bytes()
            return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    raise DataMissing(
        f"no {name}.gz in {folder}. Point to the folder that holds it with --data DIR (a checkout has it)."
    )


def load_cases(folder: Path) -> list[Case]:
    return [_case(row) for row in json.loads(read(folder, CASES))["cases"]]


def _case(row: dict[str, Any]) -> Case:
    calls = tuple(call for event in row["events"] if (call := _call(event)) is not None)
    return Case(row["name"], row["category"], row["loop"], row["by_step"], row["contested"], calls)


def _call(event: dict[str, Any]) -> Call | None:
    if "tool" not in event:
        return Call(None) if event["event"] == "user_message" else None
    session, write = event.get("session") or "", event.get("kind") == "write"
    return Call(event["tool"], event["args"], event["result"], event.get("error"), session, write)


def load_sessions(folder: Path) -> Iterator[tuple[str, list[Call]]]:
    """Every recorded session, in a world of its own. What these tools return as an error is told as one."""
    for name in WORKLOADS:
        sessions: dict[str, list[Call]] = defaultdict(list)
        for line in read(folder, f"{name}.isolated.jsonl").splitlines():
            row = json.loads(line)
            failed = row["r"] if row["e"] else None
            call = Call(row["t"], row["a"], None if row["e"] else row["r"], failed, row["s"], row["k"] == "write")
            sessions[row["s"]].append(call)
        for session, calls in sessions.items():
            yield f"{name} {session}", calls


# ---------------------------------------------------------------------------------------------------------- report


def contested(cases: Sequence[Case]) -> list[str]:
    """What ours says to the cases on which public detectors disagree."""
    lines = []
    for case in cases:
        if case.contested:
            step = fired_observed(case.calls)
            label = f"a loop by step {case.by_step}" if case.loop else "no loop"
            lines.append(f"{case.name}: labelled {label}, " + ("not flagged" if step is None else f"flagged at {step}"))
    return lines


def report(
    scores: Sequence[Score], disputed: Sequence[str], flagged: Sequence[str], sessions: int, *, verbose: bool
) -> None:
    print(f"{'':<24}{'precision':>10}{'recall':>8}{'late':>6}{'missed':>8}{'false alarms':>14}{'wasted':>8}")
    for each in scores:
        print(
            f"{each.name:<24}{each.precision:>10.2f}{each.recall:>8.2f}{len(each.late):>6}{len(each.missed):>8}"
            f"{len(each.false_alarms):>14}{each.wasted:>8.1f}"
        )
        for label, names in (("late", each.late), ("missed", each.missed), ("false alarm", each.false_alarms)):
            if verbose and names:
                print(f"    {label}: {', '.join(names)}")
    print("\ncontested, not scored:")
    for line in disputed:
        print(f"    {line}")
    print(f"\nrecorded sessions flagged: {len(flagged)} of {sessions}")
    for name in flagged:
        print(f"    {name}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score the loop detector on labelled traces.")
    parser.add_argument("--data", type=Path, default=HERE / "data", metavar="DIR", help="where the cases are")
    parser.add_argument("--json", action="store_true", help="the scores as JSON")
    parser.add_argument("--verbose", action="store_true", help="name the cases each detector gets wrong")
    options = parser.parse_args(argv)
    logging.getLogger("agent_cache").setLevel(logging.ERROR)
    try:
        cases = load_cases(options.data)
        sessions = list(load_sessions(options.data))
    except DataMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    scores = all_scores(cases)
    flagged = [f"{name}: step {step} of {len(calls)}" for name, calls in sessions if (step := fired_observed(calls))]
    if options.json:
        rows = [vars(each) | {"precision": each.precision, "recall": each.recall} for each in scores]
        told = {"scores": rows, "contested": contested(cases), "sessions": len(sessions), "flagged": flagged}
        print(json.dumps(told, indent=2))
    else:
        report(scores, contested(cases), flagged, len(sessions), verbose=options.verbose)
    ours = scores[:2]
    well = all(not each.false_alarms and each.recall >= RECALL for each in ours)
    return 0 if well and len(flagged) <= FLAGGED * len(sessions) else 1


if __name__ == "__main__":
    sys.exit(main())
