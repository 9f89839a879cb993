"""Replay recorded agent traffic through decorated tools: what a policy saves, and what it serves wrong.

    python benchmarks/replay.py [--data DIR] [--redis URL] [--json]

Every line of a recorded workload is one tool call with its true result. The replay calls a *decorated* tool
for each line, through the public API alone. When the tool body runs, it answers with the line's own result
(the call was a miss). When it does not run, the cache answered (a hit), and a hit that differs from the
line's result is **stale**. Hit rates are set beside those of an ideal cache (`expected.json`).

Exit code: 0 all well; 1 a policy that invalidates served something stale, or a hit rate is further from the
ideal than the tolerance; 2 the data could not be found or read.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import inspect
import json
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, MemoryBackend

HERE = Path(__file__).resolve().parent
DATASETS = ("tau1_airline_gpt4o", "tau2_airline_whissle")
TOLERANCE_PP = 1.0
ERROR = "Error: "

Tag = tuple[str, "str | None"]
Call = Callable[[], Awaitable[str]]
Granularity = Literal["none", "flush", "resource", "entity"]
ReadTool = Callable[[dict[str, Any], "str | None"], Awaitable[str]]
WriteTool = Callable[[dict[str, Any], "dict[str, str | None]"], Awaitable["Written"]]


class DataMissing(Exception):
    """The recorded workloads are not where they were looked for."""


@dataclass(frozen=True)
class Line:
    """One recorded call. `result` is what the tool answers at this position, in text."""

    session: str
    tool: str
    arguments: dict[str, Any]
    kind: str
    reads: tuple[Tag, ...]
    writes: tuple[Tag, ...]
    result: str


@dataclass(frozen=True)
class Policy:
    """How the tools are decorated: who shares a result, and what a write drops."""

    name: str
    scope: Literal["session", "global", "lineage"]
    drops: Granularity
    successful_only: bool = False

    @property
    def workload(self) -> str:
        """Sessions live in worlds of their own, the global cache in one shared world."""
        return "inter" if self.scope == "global" else "isolated"

    @property
    def start_state(self) -> str | None:
        """The recorded worlds of their own all begin in one state."""
        return "as recorded" if self.scope == "lineage" else None

    @property
    def must_be_fresh(self) -> bool:
        return self.drops != "none"


POLICIES = (
    Policy("session, no invalidation", "session", "none"),
    Policy("session, resource", "session", "resource"),
    Policy("session, entity", "session", "entity"),
    Policy("global, no invalidation", "global", "none"),
    Policy("global, flush on write", "global", "flush"),
    Policy("global, resource", "global", "resource"),
    Policy("global, entity", "global", "entity"),
    Policy("global, entity, successful writes only", "global", "entity", successful_only=True),
    Policy("isolated worlds, shared by write lineage", "lineage", "entity"),
)


@dataclass
class Outcome:
    """What one policy did on one workload."""

    reads: int = 0
    hits: int = 0
    stale: int = 0
    first_stale: list[str] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        return self.hits / self.reads if self.reads else 0.0


@dataclass(frozen=True)
class Row:
    """A line of the table. `problems` is empty when the policy did what an ideal one does."""

    dataset: str
    policy: str
    reads: int
    hits: int
    hit_rate: float
    stale: int
    expected_hits: int
    expected_hit_rate: float
    expected_stale: int
    difference_pp: float
    problems: tuple[str, ...]


# ------------------------------------------------------------------ data


def load_lines(path: Path) -> list[Line]:
    """Read one recorded workload, gzipped or plain."""
    for candidate in (path.with_name(path.name + ".gz"), path):
        if candidate.is_file():
            break
    else:
        raise DataMissing(missing_message(path.parent, f"{path.name}.gz"))
    raw = candidate.read_bytes()
    text = (gzip.decompress(raw) if candidate.suffix == ".gz" else raw).decode("utf-8")
    return [parse_line(json.loads(row)) for row in text.splitlines() if row.strip()]


def parse_line(row: dict[str, Any]) -> Line:
    return Line(
        session=row["s"],
        tool=row["t"],
        arguments=row["a"],
        kind=row["k"],
        reads=tuple((resource, entity) for resource, entity in row["rt"]),
        writes=tuple((resource, entity) for resource, entity in row["wt"]),
        result=(ERROR if row["e"] else "") + row["r"],
    )


def load_expected(data: Path) -> dict[str, dict[str, dict[str, int]]]:
    path = data / "expected.json"
    if not path.is_file():
        raise DataMissing(missing_message(data, path.name))
    expected: dict[str, dict[str, dict[str, int]]] = json.loads(path.read_text("utf-8"))
    return expected


def missing_message(folder: Path, name: str) -> str:
    return (
        f"the recorded workloads are missing: no {name} in {folder}. "
        "Point to the folder that holds them with --data DIR (a checkout has them in benchmarks/data)."
    )


# ------------------------------------------------------------------ tools


class World:
    """Stands for the systems behind the tools: it answers with the true result of the current line."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.loads = 0

    def answer(self) -> str:
        assert self.line is not None, "a tool ran outside a recorded call"
        self.loads += 1
        return self.line.result


@dataclass(frozen=True)
class Written:
    """What a write tool returns: the recorded text, and what it wrote."""

    text: str
    entities: dict[str, str | None]


class Toolbox:
    """The recorded tools, decorated for one policy. A tool is made when its first call is met."""

    def __init__(self, policy: Policy, lines: Sequence[Line], backend: Any) -> None:
        self.policy = policy
        self.world = World()
        self._backend = backend
        # A session's write acts as global where a resource has global reads too: keep the names apart.
        self._prefix = "own_" if policy.scope == "session" else ""
        tagged = {resource for line in lines for resource, _ in (*line.reads, *line.writes)}
        self._all_resources = sorted(tagged | {"pure"})
        self._reads: dict[tuple[str, str], ReadTool] = {}
        self._writes: dict[tuple[str, tuple[str, ...]], WriteTool] = {}

    async def call(self, line: Line) -> str:
        """Make the recorded call, as an agent would."""
        self.world.line = line
        if line.kind in ("read", "pure"):
            resource, entity = self._read_resource(line)
            return await self._read_tool(line.tool, resource)(line.arguments, entity)
        if line.kind == "write":
            resources, entities = self._written(line)
            return (await self._write_tool(line.tool, resources)(line.arguments, entities)).text
        return self.world.answer()

    def _read_resource(self, line: Line) -> Tag:
        """A template for a read of one entity; a plain name for a list, which is a whole resource."""
        if not line.reads:
            return f"{self._prefix}pure", None
        if len(line.reads) > 1:
            raise ValueError(f"{line.tool} reads {len(line.reads)} resources; this replay knows reads of one")
        resource, entity = line.reads[0]
        by_entity = self.policy.drops == "entity" and entity is not None
        return f"{self._prefix}{resource}" + (":{entity}" if by_entity else ""), entity

    def _written(self, line: Line) -> tuple[tuple[str, ...], dict[str, str | None]]:
        """What the write declares: its entities by its arguments where those name them, else by its result.

        An entity that is None drops the whole resource, as recorded.
        """
        if self.policy.drops == "flush":
            return tuple(f"{self._prefix}{resource}" for resource in self._all_resources), {}
        if self.policy.drops == "resource":
            return tuple(dict.fromkeys(f"{self._prefix}{resource}" for resource, _ in line.writes)), {}
        named = {f"w{index}": tag for index, tag in enumerate(line.writes)}
        known = [value for value in line.arguments.values() if isinstance(value, str)]
        where = {name: "entities" if tag[1] in known else "result.entities" for name, tag in named.items()}
        templates = tuple(f"{self._prefix}{tag[0]}:{{{where[name]}[{name}]}}" for name, tag in named.items())
        return templates, {name: tag[1] for name, tag in named.items()}

    def _read_tool(self, tool: str, resource: str) -> ReadTool:
        made = self._reads.get((tool, resource))
        if made is None:
            made = self._make_read(tool, resource)
        return made

    def _make_read(self, tool: str, resource: str) -> ReadTool:
        world = self.world

        async def read(arguments: dict[str, Any], entity: str | None) -> str:
            return world.answer()

        read.__name__ = read.__qualname__ = f"{tool}__{len(self._reads)}"
        scope, backend = self.policy.scope, self._backend
        made: ReadTool = AgentCache(resource, scope=scope, ttl=3600, maxsize=None, backend=backend)(read)
        self._reads[tool, resource] = made
        return made

    def _write_tool(self, tool: str, resources: tuple[str, ...]) -> WriteTool:
        made = self._writes.get((tool, resources))
        if made is None:
            made = self._writes[tool, resources] = self._make_write(tool, resources)
        return made

    def _make_write(self, tool: str, resources: tuple[str, ...]) -> WriteTool:
        world = self.world

        async def write(arguments: dict[str, Any], entities: dict[str, str | None]) -> Written:
            return Written(world.answer(), entities)

        write.__name__ = write.__qualname__ = f"{tool}__{len(self._writes)}"
        if self.policy.drops == "none" or not resources:
            return write
        extra: dict[str, Any] = {"backend": self._backend} if takes("backend") else {}
        if self.policy.successful_only:
            extra["no_effect_if"] = refused
        return AgentCacheInvalidator(list(resources), scope=self.policy.scope, **extra)(write)


def refused(result: Written) -> bool:
    """These tools return their errors; a write that returns one changed nothing."""
    return result.text.startswith(ERROR)


def takes(parameter: str) -> bool:
    return parameter in inspect.signature(AgentCacheInvalidator).parameters


# ------------------------------------------------------------------ replay


def a_cache(url: str | None) -> Any:
    """An empty backend: in memory, or on a Redis under a prefix of its own."""
    if url is None:
        return MemoryBackend(max_size=1_000_000)
    from agent_cache import RedisBackend

    return RedisBackend(url, prefix=f"replay-{secrets.token_hex(6)}:")


async def replay(lines: Sequence[Line], policy: Policy, url: str | None = None) -> Outcome:
    """Make every recorded call in order, under one policy, with a cache of its own."""
    backend = a_cache(url)
    toolbox = Toolbox(policy, lines, backend)
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(backend)
        sessions: dict[str, Caller] = {}
        for line in lines:
            caller: Caller | None = None
            if policy.scope != "global":
                caller = sessions.get(line.session)
                if caller is None:
                    caller = await stack.enter_async_context(Caller(line.session, backend, policy.start_state))
                    sessions[line.session] = caller
            await count(toolbox, line, outcome, caller)
    return outcome


async def count(toolbox: Toolbox, line: Line, outcome: Outcome, caller: Caller | None) -> None:
    before = toolbox.world.loads
    result = await (toolbox.call(line) if caller is None else caller.run(lambda: toolbox.call(line)))
    if line.kind not in ("read", "pure"):
        if toolbox.world.loads != before + 1:
            raise AssertionError(f"{line.tool} is not a read and ran {toolbox.world.loads - before} times")
        return
    outcome.reads += 1
    if toolbox.world.loads != before:
        return
    outcome.hits += 1
    if result != line.result:
        outcome.stale += 1
        if len(outcome.first_stale) < 5:
            outcome.first_stale.append(f"{line.session}: {line.tool}({json.dumps(line.arguments)})")


class Caller:
    """One recorded session, open from its first call to the end: a task that runs calls inside it."""

    def __init__(self, name: str, backend: Any, start_state: str | None) -> None:
        self._name = name
        self._backend = backend
        self._start_state = start_state
        self._work: asyncio.Queue[tuple[Call, asyncio.Future[str]] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Caller:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._work.put_nowait(None)
        await self._task

    async def run(self, call: Call) -> str:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._work.put_nowait((call, done))
        return await done

    async def _serve(self) -> None:
        session = AgentCacheSession(
            f"replay-{self._name}", loop_detection=False, backend=self._backend, start_state=self._start_state
        )
        async with session:
            while (item := await self._work.get()) is not None:
                call, done = item
                try:
                    done.set_result(await call())
                except Exception as error:
                    done.set_exception(error)


# ------------------------------------------------------------------ judging


def judge(dataset: str, policy: Policy, outcome: Outcome, ideal: dict[str, int]) -> Row:
    expected_rate = ideal["hits"] / ideal["reads"]
    difference = 100 * (outcome.hit_rate - expected_rate)
    problems: list[str] = []
    if policy.must_be_fresh and outcome.stale:
        problems.append(f"{outcome.stale} stale, first {outcome.first_stale[0]}")
    if outcome.reads != ideal["reads"]:
        problems.append(f"{outcome.reads} reads instead of {ideal['reads']}")
    if abs(difference) > TOLERANCE_PP:
        problems.append(f"hit rate {difference:+.1f} pp from the ideal")
    return Row(
        dataset=dataset,
        policy=policy.name,
        reads=outcome.reads,
        hits=outcome.hits,
        hit_rate=outcome.hit_rate,
        stale=outcome.stale,
        expected_hits=ideal["hits"],
        expected_hit_rate=expected_rate,
        expected_stale=ideal["stale"],
        difference_pp=difference,
        problems=tuple(problems),
    )


def run(
    data: Path, policies: Sequence[Policy] = POLICIES, datasets: Sequence[str] = DATASETS, url: str | None = None
) -> list[Row]:
    """Replay all datasets under all policies."""
    expected = load_expected(data)
    rows = []
    for dataset in datasets:
        workloads = {kind: load_lines(data / f"{dataset}.{kind}.jsonl") for kind in ("isolated", "inter")}
        for policy in policies:
            outcome = asyncio.run(replay(workloads[policy.workload], policy, url))
            rows.append(judge(dataset, policy, outcome, expected[dataset][policy.name]))
    return rows


def table(rows: Sequence[Row]) -> str:
    out = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        out.append(f"\n{dataset}")
        heads = f"{'reads':>6}{'hits':>6}{'rate':>8}{'ideal':>8}{'diff pp':>9}{'stale':>7}{'ideal':>7}"
        out.append(f"  {'policy':<40}{heads}")
        for row in rows:
            if row.dataset == dataset:
                out.append(
                    f"  {row.policy:<40}{row.reads:>6}{row.hits:>6}{row.hit_rate:>8.1%}"
                    f"{row.expected_hit_rate:>8.1%}{row.difference_pp:>+9.2f}{row.stale:>7}{row.expected_stale:>7}"
                )
    return "\n".join(out).lstrip("\n")


NOTE = """\
Tags are used as recorded. Not all of them can be known when the call is made: a booking's reservation is
named only by its result, which is how the tool says it ("reservations:{result...}"); a refused update's user by
nothing: then the whole resource is dropped. "ideal" is a cache without ttl, capacity limit or delay."""


def summary(rows: Sequence[Row]) -> str:
    out = []
    for row in rows:
        if row.policy == "global, no invalidation" and row.hits:
            out.append(
                f"{row.dataset}: a TTL-only cache shared by all sessions served {row.stale} of its "
                f"{row.hits} hits stale ({row.stale / row.hits:.0%})."
            )
    return "\n".join(out)


def main(argv: Sequence[str] | None = None, policies: Sequence[Policy] = POLICIES) -> int:
    parser = argparse.ArgumentParser(description="Replay recorded agent traffic through decorated tools.")
    parser.add_argument("--data", type=Path, default=HERE / "data", metavar="DIR", help="where they are")
    parser.add_argument("--redis", metavar="URL", help="keep it there instead of in memory")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    logging.getLogger("agent_cache").setLevel(logging.ERROR)

    skipped = [policy.name for policy in policies if policy.successful_only and not takes("no_effect_if")]
    try:
        rows = run(options.data, [policy for policy in policies if policy.name not in skipped], url=options.redis)
    except DataMissing as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    problems = [f"{row.dataset}, {row.policy}: {problem}" for row in rows for problem in row.problems]
    if options.json:
        document = {
            "rows": [asdict(row) for row in rows],
            "skipped": skipped,
            "problems": problems,
            "note": NOTE,
        }
        print(json.dumps(document, indent=1))
    else:
        print(table(rows))
        print(f"\n{summary(rows)}\n\n{NOTE}")
        for name in skipped:
            print(f"\nnot run: {name!r} (AgentCacheInvalidator takes no no_effect_if=)")
        print()
        for problem in problems:
            print(f"WRONG: {problem}")
        if not problems:
            print(f"All well: nothing stale where writes invalidate, hit rates within {TOLERANCE_PP:g} pp.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
