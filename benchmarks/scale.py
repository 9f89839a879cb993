"""What grows with what: cost of a call against entries, tags, sessions, tools and payload size; work of several processes.

    python benchmarks/scale.py [--quick] [--only SECTION ...] [--json FILE] [--chart FILE]

A line that is flat costs the same however much there is. Each figure is the median over interleaved rounds, CPU time of
this process (`processes`: wall time, reads per second of all). FLOOR is `await` of a coroutine that looks up a dict by a
tuple key, measured in the same rounds. `soak` makes calls for a while and says what memory was kept meanwhile.
No figure here passes or fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hit import environment, floor, interleave, open_session, resident_bytes, tree

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, MemoryBackend

SECTIONS = ("entries", "tags", "sessions", "tools", "payload", "processes", "soak")
WHAT = {
    "entries": "entries in the store",
    "tags": "resources of a read",
    "sessions": "sessions open at once",
    "tools": "decorated tools",
    "payload": "bytes of a result (JSON)",
    "processes": "processes on one store",
    "soak": "calls made",
}


@dataclass
class Point:
    """One figure: ``line`` at ``x``; microseconds per operation (`processes`: reads per second, `soak`: bytes kept)."""

    section: str
    line: str
    x: int
    value: float
    unit: str = "us"


@dataclass(frozen=True)
class Plan:
    """How long to measure, and how far to go."""

    rounds: int
    calls: int
    entries: tuple[int, ...]
    tags: tuple[int, ...]
    sessions: tuple[int, ...]
    tools: tuple[int, ...]
    payload: tuple[int, ...]
    processes: tuple[int, ...]
    seconds: float
    soak: tuple[int, ...]


FULL = Plan(
    rounds=9,
    calls=500,
    entries=(100, 1_000, 10_000, 100_000, 1_000_000),
    tags=(1, 2, 4, 8, 16, 32),
    sessions=(1, 10, 100, 1_000),
    tools=(1, 10, 50, 200),
    payload=(100, 1_000, 10_000, 100_000, 1_000_000),
    processes=(1, 2, 4),
    seconds=3.0,
    soak=(50_000, 100_000, 200_000, 400_000),
)
QUICK = Plan(
    rounds=3,
    calls=100,
    entries=(100, 1_000, 10_000),
    tags=(1, 4, 16),
    sessions=(1, 10, 100),
    tools=(1, 10, 50),
    payload=(100, 1_000, 10_000, 100_000),
    processes=(1, 2),
    seconds=0.5,
    soak=(2_000, 4_000, 8_000),
)

Work = Callable[[], Awaitable[None]]
Lines = Mapping[str, tuple[int, Work]]
"""Name of a line to how many operations one run of its work makes, and the work."""


async def measured(section: str, x: int, lines: Lines, rounds: int) -> list[Point]:
    """The lines at one x, interleaved."""

    def batch(operations: int, work: Work) -> Callable[[], Any]:
        async def run() -> float:
            start = time.process_time_ns()
            await work()
            return (time.process_time_ns() - start) / 1e9 / operations

        return run

    times = await interleave({name: batch(n, work) for name, (n, work) in lines.items()}, rounds)
    return [Point(section, name, x, statistics.median(values) * 1e6) for name, values in times.items()]


def the_floor(plan: Plan) -> tuple[int, Work]:
    async def work() -> None:
        for _ in range(plan.calls * 5):
            await floor("user-17", 3)

    return plan.calls * 5, work


def every(count: int, of: int) -> Sequence[int]:
    """``count`` numbers below ``of``, spread over all of it."""
    return [(number * 7_919) % of for number in range(count)]


# ------------------------------------------------------------------ sections


async def entries(plan: Plan) -> list[Point]:
    """One store that grows: hits that are served at once, hits by lookup, misses, a write that drops all of it."""
    backend = MemoryBackend(max_size=None)

    @AgentCache("item", backend=backend, maxsize=None)
    async def read(item: int) -> str:
        return "an answer"

    @AgentCacheInvalidator("item", backend=backend)
    async def write() -> None:
        return None

    points: list[Point] = []
    before, filled, fresh = resident_bytes(), 0, 10**9
    for size in plan.entries:
        for item in range(filled, size):
            await read(item)
        gc.collect()
        points.append(Point("entries", "bytes per entry", size, (resident_bytes() - before) / size, "bytes"))
        filled = size
        asked = every(plan.calls, size)
        hot = every(min(plan.calls, 50), size)

        async def at_once(hot: Sequence[int] = hot) -> None:
            for _ in range(10):
                for item in hot:
                    await read(item)

        async def by_lookup(asked: Sequence[int] = asked) -> None:
            with AgentCacheSession(loop_detection=False):  # a new view knows nothing: each call is looked up
                for item in asked:
                    await read(item)

        async def misses() -> None:
            nonlocal fresh
            for _ in range(plan.calls):
                fresh += 1
                await read(fresh)

        lines = {
            "hit at once": (10 * len(hot), at_once),
            "hit by lookup": (len(asked), by_lookup),
            "miss": (plan.calls, misses),
            "FLOOR": the_floor(plan),
        }
        points += await measured("entries", size, lines, plan.rounds)
        cost = []
        for _ in range(3):
            start = time.process_time_ns()
            await write()
            cost.append((time.process_time_ns() - start) / 1e3)
        points.append(Point("entries", "a write that drops all", size, statistics.median(cost)))
        filled = 0
        backend.sync.clear()
        for item in range(size):
            await read(item)
        filled = size
    return points


async def tags(plan: Plan) -> list[Point]:
    """Reads that depend on several resources, and a write of all of them."""
    points: list[Point] = []
    for count in plan.tags:
        backend = MemoryBackend(max_size=None)
        resources = [f"thing{number}:{{item}}" for number in range(count)]

        @AgentCache(resources, backend=backend, maxsize=None)
        async def read(item: int) -> str:
            return "an answer"

        @AgentCacheInvalidator(resources, backend=backend)
        async def write(item: int) -> None:
            return None

        numbers = iter(range(10**9))

        async def hits(read: Any = read) -> None:
            for _ in range(plan.calls):
                await read(1)

        async def misses(read: Any = read, numbers: Iterator[int] = numbers) -> None:
            for _ in range(plan.calls):
                await read(next(numbers))

        async def writes(write: Any = write) -> None:
            for _ in range(plan.calls):
                await write(1)

        await read(1)
        lines = {
            "hit at once": (plan.calls, hits),
            "miss": (plan.calls, misses),
            "write": (plan.calls, writes),
            "FLOOR": the_floor(plan),
        }
        points += await measured("tags", count, lines, plan.rounds)
    return points


async def sessions(plan: Plan) -> list[Point]:
    """Many runs at once, each asking in turn; and what it costs to open and close one."""

    @AgentCache("cart", scope="session", backend=MemoryBackend(max_size=None), maxsize=None)
    async def read(item: int) -> str:
        return "an answer"

    points: list[Point] = []
    for count in plan.sessions:
        turns = max(1, plan.calls // count)
        gates = [asyncio.Semaphore(0) for _ in range(count)]
        done, leave = asyncio.Semaphore(0), asyncio.Event()

        async def agent(
            gate: asyncio.Semaphore,
            done: asyncio.Semaphore = done,
            leave: asyncio.Event = leave,
            turns: int = turns,
        ) -> None:
            async with open_session():
                await read(1)
                await read(1)
                while True:
                    await gate.acquire()
                    if leave.is_set():
                        return
                    for _ in range(turns):
                        await read(1)
                    done.release()

        tasks = [asyncio.create_task(agent(gate)) for gate in gates]
        await asyncio.sleep(0)

        async def all_ask(gates: Sequence[asyncio.Semaphore] = gates, done: asyncio.Semaphore = done) -> None:
            for gate in gates:
                gate.release()
            for _ in gates:
                await done.acquire()

        async def open_and_close() -> None:
            for _ in range(50):
                async with AgentCacheSession():
                    pass

        lines = {
            "hit, the task switch included": (count * turns, all_ask),
            "open and close a session": (50, open_and_close),
            "FLOOR": the_floor(plan),
        }
        points += await measured("sessions", count, lines, plan.rounds)
        leave.set()
        for gate in gates:
            gate.release()
        await asyncio.gather(*tasks)
    return points


async def tools(plan: Plan) -> list[Point]:
    """Many decorated tools called in turn."""
    points: list[Point] = []
    for count in plan.tools:
        backend = MemoryBackend(max_size=None)
        start = time.process_time_ns()
        made = [_tool(number, backend) for number in range(count)]
        decorate = (time.process_time_ns() - start) / 1e3 / count
        points.append(Point("tools", "decorate one", count, decorate))
        turns = max(1, plan.calls // count)
        async with open_session():
            for read in made:
                await read(1)

            async def all_of_them(made: Sequence[Any] = made, turns: int = turns) -> None:
                for _ in range(turns):
                    for read in made:
                        await read(1)

            lines = {"hit": (count * turns, all_of_them), "FLOOR": the_floor(plan)}
            points += await measured("tools", count, lines, plan.rounds)
    return points


def _tool(number: int, backend: MemoryBackend) -> Any:
    @AgentCache(f"thing{number}", backend=backend)
    async def read(item: int) -> str:
        return "an answer"

    return read


async def payload(plan: Plan) -> list[Point]:
    """Results of some size, each caller its own; beside a deep copy, and a result that may be shared."""
    points: list[Point] = []
    for size in plan.payload:
        value = tree(1)
        rows = max(1, size // len(json.dumps(value)))
        value = tree(rows)
        text = "x" * size
        backend = MemoryBackend(max_size=None)

        read, read_text = _answering(value, backend), _answering(text, backend)
        calls = max(2, min(plan.calls, 2_000_000 // size))
        numbers = iter(range(10, 10**9))

        async def hits(read: Any = read, calls: int = calls) -> None:
            for _ in range(calls):
                await read(1)

        async def shared(read: Any = read_text, calls: int = calls) -> None:
            for _ in range(calls):
                await read(1)

        async def misses(read: Any = read, calls: int = calls, numbers: Iterator[int] = numbers) -> None:
            for _ in range(calls):
                await read(next(numbers))

        async def deep(value: Any = value, calls: int = calls) -> None:
            for _ in range(calls):
                copy.deepcopy(value)

        await read(1)
        await read_text(1)
        lines = {
            "hit, a tree of one's own": (calls, hits),
            "hit, a text (shared)": (calls, shared),
            "miss, a tree": (calls, misses),
            "deepcopy of the tree": (calls, deep),
        }
        points += await measured("payload", len(json.dumps(value)), lines, plan.rounds)
    return points


def _answering(value: Any, backend: MemoryBackend) -> Any:
    @AgentCache("value", backend=backend, maxsize=None)
    async def read(item: int) -> Any:
        return value

    return read


async def processes(plan: Plan) -> list[Point]:
    """Reads per second of 1, 2 and 4 processes that read and now and then write the same 200 entries."""
    points: list[Point] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {"disk": f"disk://{folder}/scale.db", "disk, no near tier": f"disk://{folder}/alone.db?near=0"}
        urls |= _redis_urls(stack)
        for name, url in urls.items():
            for count in plan.processes:
                command = [sys.executable, str(Path(__file__).resolve()), "--worker", url, str(plan.seconds)]
                workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
                said = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
                points.append(
                    Point(
                        "processes", f"{name}: reads/s of all", count, sum(s["reads_per_second"] for s in said), "1/s"
                    )
                )
                cpu = statistics.mean(s["cpu_us"] for s in said)
                points.append(Point("processes", f"{name}: CPU us of a read", count, cpu))
    return points


def _redis_urls(stack: ExitStack) -> dict[str, str]:
    try:
        from agent_cache.testing.servers import RedisServer, ServerNotFoundError, find_server
    except ImportError:
        return {}
    try:
        server = stack.enter_context(RedisServer(find_server()))
    except ServerNotFoundError as error:
        print(f"processes: no Redis ({error})", file=sys.stderr)
        return {}
    return {"Redis": f"{server.url}?near=0", "Redis, near tier, strict": server.url}


async def worker(url: str, seconds: float) -> dict[str, float]:
    """One process of :func:`processes`."""
    from agent_cache.config import backend_from_url

    backend: Any = backend_from_url(url)

    @AgentCache("item:{item}", backend=backend, maxsize=None)
    async def read(item: int) -> str:
        return "x" * 1_000

    @AgentCacheInvalidator("item:{item}", backend=backend)
    async def write(item: int) -> None:
        return None

    for item in range(200):
        await read(item)
    reads = 0

    async def reader(first: int) -> None:
        nonlocal reads
        item = first
        while time.monotonic() < end:
            item = (item * 31 + 7) % 200
            await read(item)
            reads += 1
            if reads % 1_000 == 0:
                await write(item)
            if reads % 20 == 0:
                await asyncio.sleep(0)

    cpu, end = time.process_time(), time.monotonic() + seconds
    await asyncio.gather(*[reader(number) for number in range(10)])
    cpu = time.process_time() - cpu
    await backend.close()
    return {"reads_per_second": reads / seconds, "cpu_us": cpu / max(1, reads) * 1e6}


async def soak(plan: Plan) -> list[Point]:
    """Calls of every kind in sessions that come and go, in a bounded store: bytes kept by Python at each mark."""
    backend = MemoryBackend(max_size=500)

    @AgentCache("item:{item}", scope="session", backend=backend)
    async def read(item: int) -> dict[str, int]:
        return {"item": item}

    @AgentCacheInvalidator("item:{item}", scope="session", backend=backend)
    async def write(item: int) -> None:
        return None

    points: list[Point] = []
    calls = 0
    tracemalloc.start()
    try:
        for mark in plan.soak:
            while calls < mark:
                async with open_session(max_tool_repeats=5):
                    for item in range(100):
                        await read(calls % 1_000 + item)
                        await read(calls % 1_000 + item)
                        if item % 10 == 0:
                            await write(calls % 1_000 + item)
                            await read.invalidate(item)
                calls += 220
                await asyncio.sleep(0)
            gc.collect()
            points.append(Point("soak", "bytes kept", mark, float(tracemalloc.get_traced_memory()[0]), "bytes"))
    finally:
        tracemalloc.stop()
    return points


RUN: dict[str, Callable[[Plan], Awaitable[list[Point]]]] = {
    "entries": entries,
    "tags": tags,
    "sessions": sessions,
    "tools": tools,
    "payload": payload,
    "processes": processes,
    "soak": soak,
}


# ------------------------------------------------------------------ report


def table(points: Sequence[Point]) -> str:
    lines: list[str] = []
    for section in dict.fromkeys(point.section for point in points):
        mine = [point for point in points if point.section == section]
        xs = sorted({point.x for point in mine})
        lines += ["", f"{section}: by {WHAT[section]}", f"  {'':<40}" + "".join(f"{x:>12,}" for x in xs)]
        for line in dict.fromkeys(point.line for point in mine):
            values = {point.x: point for point in mine if point.line == line}
            unit = next(iter(values.values())).unit
            cells = "".join(f"{values[x].value:>12,.1f}" if x in values else f"{'':>12}" for x in xs)
            lines.append(f"  {f'{line} ({unit})':<40}{cells}")
    return "\n".join(lines).lstrip("\n")


def chart(points: Sequence[Point], file: str) -> bool:
    """Log-log, one panel per section; False without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    shown = [name for name in SECTIONS if name not in ("processes", "soak") and any(p.section == name for p in points)]
    figure, panels = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 4), squeeze=False)
    for panel, section in zip(panels[0], shown, strict=True):
        for line in dict.fromkeys(p.line for p in points if p.section == section and p.unit == "us"):
            mine = sorted((p.x, p.value) for p in points if p.section == section and p.line == line)
            grey = {"color": "0.6", "linestyle": "--"} if line == "FLOOR" else {}
            panel.loglog([x for x, _ in mine], [value for _, value in mine], marker="o", label=line, **grey)
        panel.set_xlabel(WHAT[section])
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=8)
    panels[0][0].set_ylabel("µs of CPU per operation")
    figure.tight_layout()
    figure.savefig(file)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the cost of a call grows with, and what it does not.")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, - for standard output")
    parser.add_argument("--chart", metavar="FILE", help="draw them, log-log (needs matplotlib)")
    parser.add_argument("--worker", nargs=2, metavar=("URL", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(asyncio.run(worker(options.worker[0], float(options.worker[1])))))
        return 0
    points: list[Point] = []
    for section in options.only:
        print(f"measuring: {section} ...", file=sys.stderr)
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            points += loop.run_until_complete(RUN[section](QUICK if options.quick else FULL))  # type: ignore[arg-type]
    about = environment()
    document = {"environment": about, "quick": options.quick, "points": [asdict(point) for point in points]}
    if options.json == "-":
        print(json.dumps(document, indent=1))
        return 0
    print("\n".join(f"{name}: {value}" for name, value in about.items()), end="\n\n")
    print(table(points))
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if options.chart and not chart(points, options.chart):
        print("no chart: matplotlib is missing (pip install matplotlib)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
