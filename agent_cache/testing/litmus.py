"""The litmus: many random schedules of reads and writes, and how many broke a promise.

``python -m agent_cache.testing.litmus --operations 200000`` searches this very installation; ``--cache before+after``
shows what the same schedules do to a cache that only invalidates. With ``--backend URL`` the calls are made by real
processes that share that backend (:mod:`agent_cache.testing.processes`). What belongs here: running many seeds and
adding up. What does not: the schedules, the verdicts and the caches (their own modules).
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent_cache.testing.adapters import Adapter, AgentCacheAdapter, MakeAdapter, NaiveAdapter, naive
from agent_cache.testing.clock import HangError, run_virtual
from agent_cache.testing.processes import runner as processes
from agent_cache.testing.rules import RULES
from agent_cache.testing.schedule import Schedule

__all__ = ["Adapter", "AgentCacheAdapter", "MakeAdapter", "NaiveAdapter", "Report", "main", "naive", "run"]

_LEAST_HIT_RATIO = 0.5
_EXAMPLES = 10


@dataclass
class Report:
    """What many schedules came to.

    Attributes:
        operations: calls made, reads and writes; the look at every key at the end of a schedule is not counted.
        violations: reads that got what they should not have (C0 to C3, P2, P3).
        refetched: loads of what was already cached or being loaded (P5).
        hangs: schedules that never ended.
        spurious: calls that failed or were cancelled through no fault of their own.
        stuck: keys that at the end, with all quiet, were wrong or not cached again.
        hit_ratio: of the read-mostly schedules; a cache that never keeps anything is safe and useless.
        broken: broken promises by name; one read can break several.
        failing_seeds: run one of them alone to see it again.
        examples: what happened, in words.
    """

    operations: int = 0
    violations: int = 0
    refetched: int = 0
    hangs: int = 0
    spurious: int = 0
    stuck: int = 0
    reads: int = 0
    loads: int = 0
    reads_read_mostly: int = 0
    loads_read_mostly: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    failing_seeds: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def hit_ratio(self) -> float:
        """Of the read-mostly schedules; 1.0 if there were none."""
        if not self.reads_read_mostly:
            return 1.0
        return 1 - self.loads_read_mostly / self.reads_read_mostly

    @property
    def per_10_000(self) -> float:
        """Violations per 10,000 operations."""
        return self.violations * 10_000 / max(1, self.operations)

    @property
    def faults(self) -> int:
        """Everything that went wrong."""
        return self.violations + self.refetched + self.hangs + self.spurious + self.stuck

    @property
    def ok(self) -> bool:
        """Nothing went wrong, and the cache did cache."""
        return not self.faults and self.hit_ratio >= _LEAST_HIT_RATIO

    def __str__(self) -> str:
        broken = ", ".join(f"{name} {count}" for name, count in sorted(self.broken.items())) or "none"
        lines = [
            f"operations {self.operations}, violations {self.violations} ({self.per_10_000:.1f} per 10,000 operations)",
            f"promises broken: {broken}",
            f"refetched {self.refetched}, hangs {self.hangs}, spurious {self.spurious}, stuck {self.stuck}",
            f"hit ratio {self.hit_ratio:.2f} in the read-mostly mix",
        ]
        if self.hit_ratio < _LEAST_HIT_RATIO:
            lines.append(f"the hit ratio is under {_LEAST_HIT_RATIO}: this cache does not cache")
        if self.failing_seeds:
            lines.append(f"failing seeds: {' '.join(map(str, self.failing_seeds[:20]))}")
        lines += [f"  {example}" for example in self.examples]
        return "\n".join(lines)


def run(
    seeds: Iterable[int],
    operations_per_seed: int = 400,
    make_adapter: MakeAdapter = AgentCacheAdapter,
    *,
    shuffle: bool = True,
    stop_after: int | None = None,
) -> Report:
    """Run one schedule per seed and add up.

    Args:
        seeds: each decides one schedule; the same seed gives the same schedule again.
        operations_per_seed: calls per schedule.
        make_adapter: makes the cache to be searched, a fresh one for every seed.
        shuffle: in every second seed, let what is ready at the same time run in a random order.
        stop_after: end after this many failing seeds.
    """
    report = Report()
    for seed in seeds:
        _run_one(report, seed, operations_per_seed, make_adapter, shuffle=shuffle)
        if stop_after is not None and len(report.failing_seeds) >= stop_after:
            break
    return report


def _run_one(report: Report, seed: int, operations: int, make_adapter: MakeAdapter, *, shuffle: bool) -> None:
    schedule = Schedule(seed, operations, make_adapter)
    outcome = schedule.outcome
    examples: list[str] = []
    try:
        run_virtual(schedule.run, seed=seed if shuffle and seed % 2 else None)
    except HangError as hang:
        report.hangs += 1
        examples.append(str(hang))
        outcome.spurious = 0  # what the clearing up cancelled
    except Exception:  # noqa: BLE001 - anything a cache raises outside of a call
        outcome.spurious += 1
        examples.append(traceback.format_exc())
    world = schedule.world
    report.operations += outcome.operations
    report.violations += world.violations
    report.refetched += world.refetched
    report.spurious += outcome.spurious
    report.stuck += outcome.stuck
    report.reads += outcome.reads
    report.loads += outcome.loads
    if schedule.mix.read_mostly:
        report.reads_read_mostly += outcome.reads
        report.loads_read_mostly += outcome.loads
    report.broken.update(world.broken)
    if examples or world.violations or world.refetched or outcome.spurious or outcome.stuck:
        report.failing_seeds.append(seed)
        room = _EXAMPLES - len(report.examples)
        report.examples += [f"seed {seed}: {text}" for text in [*examples, *world.examples][: max(0, min(3, room))]]


def _refused(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """What is wrong with the options of a search without ``--backend``, and what mends it; empty if nothing is."""
    for name in ("operations", "per_seed"):
        number = getattr(options, name)
        if number is not None and number < 1:
            return f"--{name.replace('_', '-')} {number}: give a whole number from 1"
    if options.cache != "agent_cache":
        try:
            naive(options.cache)
        except ValueError:
            return (
                f"--cache {options.cache}: give agent_cache, never, or some of before, after, coalesce with + between"
            )
    if options.freshness is not None and options.freshness not in RULES:
        return f"--freshness {options.freshness}: give one of {', '.join(RULES)}"
    if options.freshness is not None and options.cache != "agent_cache":
        return f"--freshness {options.freshness}: only agent_cache has these rules: leave --cache out"
    for name in processes.OPTIONS:  # none of them would do anything here, and the report would not say so
        if getattr(options, name) != parser.get_default(name):
            return f"--{name} {getattr(options, name)}: it is for real processes: give --backend too"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: search, print, and return 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m agent_cache.testing.litmus", description=__doc__)
    parser.add_argument("--operations", type=int, help="calls in all (default 20000; with --backend: no limit)")
    parser.add_argument("--per-seed", type=int, default=400, help="calls per schedule (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; with --operations 1 that seed alone")
    parser.add_argument("--cache", default="agent_cache", help="agent_cache, never, or before, after, coalesce with +")
    parser.add_argument("--freshness", help=f"rules that let entries expire all the time: {', '.join(RULES)}")
    parser.add_argument("--no-shuffle", action="store_true", help="only in the order asyncio promises")
    processes.add_options(parser)
    options = parser.parse_args(arguments)
    if options.backend is not None:
        return processes.main(options, options.operations)
    if wrong := _refused(parser, options):
        print(wrong, file=sys.stderr)  # noqa: T201 - the command's output
        return 2
    logging.getLogger("agent_cache").setLevel(logging.ERROR)  # the litmus misuses its tools on purpose
    make_adapter: MakeAdapter = AgentCacheAdapter if options.cache == "agent_cache" else naive(options.cache)
    if options.freshness is not None and options.cache == "agent_cache":
        make_adapter = partial(AgentCacheAdapter, freshness=options.freshness)
    count = max(1, -(-(20_000 if options.operations is None else options.operations) // options.per_seed))
    seeds = range(options.seed, options.seed + count)
    report = run(seeds, options.per_seed, make_adapter, shuffle=not options.no_shuffle)
    print(f"{options.cache}: {report}")  # noqa: T201 - the command's output
    # what expires all the time is not to be served mostly from the cache
    return 0 if report.ok or (options.freshness is not None and not report.faults) else 1


if __name__ == "__main__":
    sys.exit(main())
