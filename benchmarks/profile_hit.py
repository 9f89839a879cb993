"""Where a near hit of agent_cache spends its time.

    python benchmarks/profile_hit.py [--calls N] [--profile]

First a decomposition: the same hit with one thing after the other switched on, as multiples of FLOOR, which
is `await` of a coroutine that looks up a dict by a tuple key. Then, with `--profile`, a deterministic profile
of the full hit; its own cost distorts short functions, so read the order of the lines and not the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from agent_cache import AgentCache, AgentCacheSession, MemoryBackend

Tool = Callable[[str, int], Awaitable[str]]
TABLE = {("user-17", 3): "shipped"}
ROUNDS = 15
HUGE = 10**9


async def floor(user_id: str, page: int) -> str:
    return TABLE[user_id, page]


async def nothing(user_id: str, page: int) -> str:
    return "shipped"


@dataclass(frozen=True)
class Step:
    """One way to call a decorated tool."""

    name: str
    resource: str = "orders"
    scope: Literal["global", "session", "user"] = "global"
    ttl: float | None = None
    session: bool = False
    loops: bool = False

    def tool(self) -> Tool:
        async def get_orders(user_id: str, page: int) -> str:
            return "shipped"

        # Two tools of one name on one backend would share their entries.
        get_orders.__name__ = get_orders.__qualname__ = "orders_" + "_".join(self.name.split())
        return AgentCache(self.resource, scope=self.scope, ttl=self.ttl, backend=MemoryBackend())(get_orders)

    def around(self) -> AbstractAsyncContextManager[Any]:
        if not self.session:
            return nullcontext()
        return AgentCacheSession(
            loop_detection=self.loops,
            max_tool_repeats=HUGE,
            max_execution_depth=HUGE,
            identity={"tenant": "acme", "user": "u1"},
        )


TAG = "orders:{user_id}"
STEPS = (
    Step("bare decorator"),
    Step("with ttl", ttl=3600),
    Step("with an entity tag", ttl=3600, resource=TAG),
    Step("in a session", ttl=3600, resource=TAG, session=True),
    Step("with the loop detector", ttl=3600, resource=TAG, session=True, loops=True),
    Step("with scope user", ttl=3600, resource=TAG, session=True, loops=True, scope="user"),
    Step("with scope session", ttl=3600, resource=TAG, session=True, loops=True, scope="session"),
)


async def seconds_per_call(tool: Tool, calls: int) -> float:
    start = time.process_time_ns()
    for _ in range(calls // 4):
        await tool("user-17", 3)
        await tool("user-17", 3)
        await tool("user-17", 3)
        await tool("user-17", 3)
    return (time.process_time_ns() - start) / 1e9 / (calls // 4 * 4)


async def measure(step: Step, calls: int) -> tuple[float, float]:
    """The median ratio to FLOOR and the CPU microseconds of one hit."""
    tool = step.tool()
    ratios: list[float] = []
    micros: list[float] = []
    async with step.around():
        await tool("user-17", 3)
        for number in range(ROUNDS + 1):
            gc.collect()
            base = await seconds_per_call(floor, calls)
            mine = await seconds_per_call(tool, calls)
            if not number:  # the first round warms up
                continue
            ratios.append(mine / base)
            micros.append(mine * 1e6)
    return statistics.median(ratios), statistics.median(micros)


async def decompose(calls: int) -> None:
    empty: list[float] = []
    for _ in range(ROUNDS):
        base = await seconds_per_call(floor, calls)
        empty.append(await seconds_per_call(nothing, calls) / base)
    print(f"{'':<28}{'x FLOOR':>9}{'step':>8}{'us':>8}")
    print(f"{'a coroutine alone':<28}{statistics.median(empty):>9.2f}")
    before = 0.0
    for step in STEPS:
        ratio, micros = await measure(step, calls)
        print(f"{step.name:<28}{ratio:>9.2f}{ratio - before:>+8.2f}{micros:>8.3f}")
        before = ratio


async def profile(calls: int) -> None:
    step = STEPS[-1]
    tool = step.tool()
    async with step.around():
        await tool("user-17", 3)
        profiler = cProfile.Profile()
        profiler.enable()
        await seconds_per_call(tool, calls)
        profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(15)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Where a near hit spends its time.")
    parser.add_argument("--calls", type=int, default=20_000, metavar="N", help="calls per round (20000)")
    parser.add_argument("--profile", action="store_true", help="also print a profile of the full hit")
    options = parser.parse_args(argv)
    asyncio.run(decompose(options.calls))
    if options.profile:
        asyncio.run(profile(options.calls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
