"""Start the workers, break things, look at every key in the end, add up; and the command line.

What belongs here: the course of one run and its report. What does not: what is broken and how (faults), verdicts (the
referee).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

from agent_cache.testing.processes.caches import Cache, Setup, load_cache
from agent_cache.testing.processes.desk import HANG, HANG_BROKEN, Desk
from agent_cache.testing.processes.faults import Fault, choose_faults
from agent_cache.testing.processes.orders import MIXES, Config
from agent_cache.testing.processes.referee import Referee
from agent_cache.testing.processes.shapes import SHAPES
from agent_cache.testing.processes.stage import Stage

__all__ = ["OPTIONS", "Options", "Report", "Run", "add_options", "main", "run"]

LEAST_HIT_RATIO = 0.75
_IDENTS = 5
_COLD = 1_000
_STORMS = 5
_CALLERS = 15  # in each process
_LANDING = 0.3
WRITES = ("all", "told")
_WORKER = [sys.executable, "-m", "agent_cache.testing.processes.worker"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run; the command line's options.

    Attributes:
        backend: URL of the backend; with ``own`` the scheme and options suffice.
        seconds: how long calls are made, at most.
        operations: end after this many reads and writes, if that is sooner.
        faults: names, or ``all``.
        every: seconds between two faults, about.
        mix: ``adversarial``, ``read-mostly``, or ``both``: the last quarter is read-mostly.
        writes: ``told``: their entity is known by their result, and half of them end with the word that nothing was changed.
        own: start a server of our own.
    """

    backend: str
    processes: int = 4
    seconds: float = 60.0
    operations: int | None = None
    faults: tuple[str, ...] = ()
    every: float = 0.7
    cache: str = "agent_cache"
    seed: int = 0
    own: bool = False
    mix: str = "both"
    writes: str = "all"
    verbose: bool = False


@dataclass
class Report:
    """What a run came to. ``violations`` are reads that broke a promise; one can break several (``broken``)."""

    cache: str
    reads: int = 0
    writes: int = 0
    seconds: float = 0.0
    violations: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    unpromised: Counter[str] = field(default_factory=Counter)
    spurious: int = 0
    hangs: int = 0
    stuck: int = 0
    """Keys that were wrong at the end, with all quiet,"""
    uncached: int = 0
    """or right, and not cached again."""
    refused: int = 0
    loads: int = 0
    storms: int = 0
    excess: int = 0
    """Loads of cold keys, asked for by everyone at once, beyond the first of each."""
    excess_counts: bool = True
    hit_ratio: float | None = None
    """Of the read-mostly part."""
    hit_ratio_counts: bool = True
    faults: Counter[str] = field(default_factory=Counter)
    failed_faults: list[str] = field(default_factory=list)
    writes_ended: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Reads that got a value, and writes."""
        return self.reads + self.writes

    @property
    def per_10_000(self) -> float:
        """Violations per 10,000 operations."""
        return self.violations * 10_000 / max(1, self.operations)

    @property
    def caches(self) -> bool:
        """Enough is served from the cache, as far as that can be told."""
        return self.hit_ratio is None or not self.hit_ratio_counts or self.hit_ratio >= LEAST_HIT_RATIO

    @property
    def ok(self) -> bool:
        """Nothing went wrong, and the cache did cache."""
        bad = (
            self.violations
            + self.spurious
            + self.hangs
            + self.stuck
            + self.uncached
            + (self.excess if self.excess_counts else 0)
        )
        return not bad and not self.failed_faults and self.caches

    def __str__(self) -> str:
        scale = 10_000 / max(1, self.operations)
        a_second = self.operations / max(0.001, self.seconds)
        lines = [
            f"{self.cache}: operations {self.operations} ({self.reads} reads, {self.writes} writes), {a_second:.0f} a second",
            f"loads {self.loads}",
            f"violations {self.violations} ({self.per_10_000:.1f} per 10,000 operations); by kind: "
            + (_listed({name: f"{count} ({count * scale:.1f})" for name, count in self.broken.items()}) or "none"),
            f"not promised: {_listed(self.unpromised) or 'none'}; excused by faults: {_listed(self.excused) or 'none'}",
            f"spurious {self.spurious}, hangs {self.hangs}, writes refused {self.refused}",
            f"at the end: stuck {self.stuck}, not cached again {self.uncached}",
            f"single loads: {self.excess} too many in {self.storms} storms",
            f"writes ended: {_listed(self.writes_ended) or 'none'}",
            f"faults {sum(self.faults.values())}: {_listed(self.faults) or 'none'}",
        ]
        if self.hit_ratio is not None:
            lines.append(f"hit ratio {self.hit_ratio:.2f} in the read-mostly mix")
            if not self.caches:
                lines.append(f"the hit ratio is under {LEAST_HIT_RATIO}: this cache does not cache")
        lines += [f"fault failed: {text}" for text in self.failed_faults[:5]]
        lines += [f"  {example}" for example in self.examples]
        return "\n".join(lines)


def _listed(counts: Counter[str] | dict[str, str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


@dataclass(slots=True)
class Process:
    """A worker that runs. ``place`` stays the same through restarts, ``number`` does not."""

    place: int
    number: int
    popen: subprocess.Popen[bytes]


class Run:
    """One run, from the first process started to the last one gone."""

    def __init__(self, options: Options, cache: Cache, stage: Stage, faults: list[Fault]) -> None:
        self.options = options
        self.stage = stage
        self.rng = random.Random(options.seed)
        self.prefix = f"litmus-{secrets.token_hex(4)}:"
        self.workers: dict[int, Process] = {}
        """By place."""
        self.cache = cache
        self.faults = faults
        lossy = any(fault.takes_markers for fault in faults)
        self._lossy = lossy
        self.referee = Referee(cache.checks - {"C0"} if lossy else cache.checks, windows=cache.windows)
        self.desk = Desk(self.referee, cache.grace)
        self.report = Report(cache.name)
        self._folder = tempfile.mkdtemp(prefix="agent-cache-litmus-")
        self._last = 0
        self._began = time.monotonic()
        self._mix = "read-mostly" if options.mix == "read-mostly" else "adversarial"

    async def __call__(self) -> Report:
        """Run."""
        try:
            await asyncio.to_thread(self.stage.open)
            await self.desk.open(self._socket)
            await asyncio.gather(*(self.start(place) for place in range(self.options.processes)))
            await self._make_calls()
            if await self._quiesce():
                await self._look()
                await self._storm()
        finally:
            await self._end()
        return self._add_up()

    @property
    def _socket(self) -> str:
        return f"{self._folder}/referee"

    # -- processes ----------------------------------------------------------------------------------------------

    async def start(self, place: int) -> None:
        """Start the worker of this place, or another one after its death."""
        self._last += 1
        number = self._last
        url = await asyncio.to_thread(self.stage.url_for, place)
        config = Config(
            socket=self._socket,
            worker=number,
            url=url,
            prefix=self.prefix,
            cache=self.options.cache,
            seed=self.options.seed * 1_000 + number,
            idents=_IDENTS,
            late=not self._lossy,
            mix=self._mix,
            writes=self.options.writes,
            rollouts=hasattr(self.cache, "rollout"),
        )
        arrived = self.desk.expect(number)
        popen = subprocess.Popen(  # noqa: ASYNC220, S603 - this very interpreter
            _WORKER,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.workers[place] = Process(place, number, popen)
        self.log(f"worker {number} is process {popen.pid}")
        assert popen.stdin is not None
        popen.stdin.write(json.dumps(dataclasses.asdict(config)).encode() + b"\n")
        popen.stdin.close()
        await asyncio.wait_for(arrived, 30)

    async def restart(self, place: int) -> None:
        """After a worker was killed: wait until it is gone, start another in its place."""
        process = self.workers[place]
        await asyncio.to_thread(process.popen.wait)
        await asyncio.wait_for(self.desk.gone(process.number), 30)
        await self.start(place)

    def process(self, number: int) -> Process:
        """The process of the worker of this number."""
        return next(process for process in self.workers.values() if process.number == number)

    def log(self, text: str) -> None:
        """With ``--verbose``: say what is done to whom, and at which event."""
        if self.options.verbose:
            print(f"{time.monotonic() - self._began:7.3f} s, event {self.referee.now}: {text}", flush=True)  # noqa: T201

    # -- the course ---------------------------------------------------------------------------------------------

    async def _make_calls(self) -> None:
        options = self.options
        began = time.monotonic()
        breaking = asyncio.create_task(self._break()) if self.faults else None
        reads, loads = self.referee.reads, self.referee.loads_begun
        mostly_from = 0.0 if options.mix == "read-mostly" else 0.75 if options.mix == "both" else 2.0
        while True:
            await asyncio.sleep(0.05)
            elapsed = time.monotonic() - began
            done = elapsed / options.seconds
            if options.operations is not None:
                done = max(done, (self.referee.reads + self.referee.writes) / options.operations)
            if done >= mostly_from and self._mix == "adversarial":
                self._mix = "read-mostly"
                for number in list(self.desk.channels):
                    self.desk.tell(number, "mix", "read-mostly")
                await asyncio.sleep(self.cache.settle + 0.2)  # what failed before still keeps others from caching
                reads, loads = self.referee.reads, self.referee.loads_begun
            if breaking is not None and breaking.done():
                breaking.result()
            if done >= 1:
                break
            for process in self.workers.values():
                status = process.popen.poll()
                if status is not None and breaking is None:
                    raise RuntimeError(f"worker {process.number} ended with status {status}")
        self.report.seconds = time.monotonic() - began
        self.report.reads, self.report.writes = self.referee.reads, self.referee.writes
        self.report.loads = self.referee.loads_begun
        if self._mix == "read-mostly":
            asked = self.referee.reads - reads
            self.report.hit_ratio = 1 - (self.referee.loads_begun - loads) / max(1, asked)
            self.report.hit_ratio_counts = not self.faults
        if breaking is not None:
            self._stop_breaking = True
            await breaking

    _stop_breaking = False

    async def _break(self) -> None:
        await asyncio.sleep(0.3)
        deck: list[Fault] = []
        while not self._stop_breaking:
            deck = deck or self.rng.sample(self.faults, len(self.faults))
            fault = deck.pop()
            self.desk.faults_running += 1
            try:
                said = await fault.inject(self)
                if said is not None:
                    self.report.faults[fault.name] += 1
                    self.log(f"{fault.name}: {said}")
            except Exception as error:
                self.report.failed_faults.append(f"{fault.name}: {error!r}")
                logging.getLogger(__name__).debug("fault failed", exc_info=True)
                if len(self.report.failed_faults) > 5:
                    raise
            finally:
                self.desk.faults_running -= 1
                self.desk.last_fault = time.monotonic()
            await asyncio.sleep(self.rng.uniform(0.3, 1.7) * self.options.every)

    async def _quiesce(self) -> bool:
        """Everything mended, every call over, every lease and settle time past. False: some calls never end."""
        await asyncio.to_thread(self.stage.heal)
        longest = HANG_BROKEN if self.faults else HANG
        drained = [self.desk.order(number, "drain") for number in list(self.desk.channels)]
        _, late = await asyncio.wait(drained, timeout=longest + 5)
        if late:
            overdue = self.desk.overdue(longest)
            self.report.hangs += max(1, len(overdue))
            self.report.examples += [f"hang: {text}" for text in overdue[:5]]
            return False
        await asyncio.sleep(_LANDING + max(self.cache.settle, self.cache.grant if self.faults else 0.0) * 1.2)
        return True

    async def _look(self) -> None:
        looks = [self.desk.order(number, "look") for number in list(self.desk.channels)]
        if looks:
            _, late = await asyncio.wait(looks, timeout=60)
            self.report.hangs += len(late)

    async def _storm(self) -> None:
        """Everyone asks at once for what nobody has."""
        for ident in range(_COLD, _COLD + _STORMS):
            before = self.referee.loads_of[f"item_for_all({ident})@"]
            storms = [self.desk.order(number, "storm", ident, _CALLERS) for number in list(self.desk.channels)]
            _, late = await asyncio.wait(storms, timeout=60)
            self.report.hangs += len(late)
            self.report.storms += 1
            self.report.excess += self.referee.loads_of[f"item_for_all({ident})@"] - before - 1

    async def _end(self) -> None:
        for number in list(self.desk.channels):
            self.desk.tell(number, "quit")
        await asyncio.to_thread(_reap, [process.popen for process in self.workers.values()])
        self.desk.close()
        await asyncio.to_thread(self.stage.close)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add_up(self) -> Report:
        referee, report = self.referee, self.report
        report.violations, report.broken = referee.violations, referee.broken
        report.excused, report.unpromised = referee.excused, referee.unpromised
        report.spurious, report.refused = referee.spurious, referee.refused
        report.writes_ended = referee.ended_by
        report.hangs += self.desk.hangs
        report.stuck, report.uncached = self.desk.stuck, self.desk.uncached
        report.excess_counts = self.cache.single_loads
        report.hit_ratio_counts = report.hit_ratio_counts and not self.cache.expires
        report.examples = [*report.examples, *referee.examples]
        if not self.faults and report.refused:
            report.spurious += report.refused
            report.examples.append(f"spurious: {report.refused} writes were refused though nothing was broken")
        return report


def _reap(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until they have ended, and kill those that do not, be they stopped or not."""
    deadline = time.monotonic() + 5
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(options: Options) -> Report:
    """Run, and report.

    Raises:
        ValueError: options that make no sense together.
    """
    if options.processes < 1 or options.seconds <= 0:
        raise ValueError("--processes and --seconds are at least 1")
    if options.mix not in (*MIXES, "both"):
        raise ValueError(f"--mix {options.mix}: give one of {', '.join(MIXES)}, both")
    if options.writes not in WRITES:
        raise ValueError(f"--writes {options.writes}: give one of {', '.join(WRITES)}")
    probe = Stage(options.backend, own=options.own, proxied=False)
    faults = choose_faults(options.faults, probe.kind, own=options.own)
    stage = Stage(options.backend, own=options.own, proxied=any(fault.needs_proxy for fault in faults))
    cache = load_cache(options.cache)(Setup(options.backend, "litmus", _IDENTS))
    return asyncio.run(_guarded(Run(options, cache, stage, faults)))


async def _guarded(course: Run) -> Report:
    """SIGTERM ends a run as Ctrl-C does: with everything that was started."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(ValueError, RuntimeError):  # not the main thread
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await course()


OPTIONS = ("processes", "seconds", "faults", "every", "mix", "writes", "reads", "server", "verbose")
"""What says nothing without ``--backend``."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this litmus."""
    group = parser.add_argument_group("with real processes (--backend)")
    group.add_argument(
        "--backend", metavar="URL", help="disk:///path, redis://host, redis+cluster://…; ?coherence=lease"
    )
    group.add_argument("--processes", type=int, default=4, help="worker processes (default 4)")
    group.add_argument("--seconds", type=float, default=None, help="how long (default 60)")
    group.add_argument("--faults", default="", help="names with commas between them, or all that fit the backend")
    group.add_argument("--every", type=float, default=0.7, help="seconds between two faults, about (default 0.7)")
    group.add_argument("--mix", default="both", help="adversarial, read-mostly, or both (default)")
    group.add_argument(
        "--writes", default="all", help="all (default), or told: refused, and known only by their result"
    )
    group.add_argument("--reads", choices=SHAPES, help="how reads say what they depend on; default: they declare it")
    group.add_argument("--server", choices=["own"], help="own: start a server (or make a file) for this run")
    group.add_argument("--verbose", action="store_true", help="print every fault")


def main(options: argparse.Namespace, operations: int | None) -> int:
    """Run what the command line asks for; 1 if anything was found, 2 if it makes no sense."""
    chosen = Options(
        backend=options.backend,
        processes=options.processes,
        seconds=options.seconds if options.seconds is not None else 60.0,
        operations=operations,
        faults=tuple(name for name in options.faults.split(",") if name),
        every=options.every,
        cache="+".join(word for word in (options.cache, options.freshness, options.reads) if word),
        seed=options.seed,
        own=options.server == "own",
        mix=options.mix,
        writes=options.writes,
        verbose=options.verbose,
    )
    try:
        report = run(chosen)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("interrupted\n")
        return 130
    print(f"seed {chosen.seed}: {report}")  # noqa: T201 - the command's output
    return 0 if report.ok else 1
