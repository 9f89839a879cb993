"""The same conversations without and with `agent_cache`: same answers, fewer calls.

Run it with ``python examples/support_desk/run.py``. It needs ``langchain``, no key, no
network. It exits with 1 if an answer differs, a stale answer was served, a loop was not
stopped, an honest conversation was, or the checker itself missed what it must see.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "support_desk"

from agent_cache import MemoryBackend, configure, get_metrics, reset_metrics

from .conversations import ROUNDS
from .desk import Desk, Outcome
from .shop import WRITES, Shop
from .tools import bare, desk_tools

PLAIN = "no cache"
ONLY_READS = "reads only"
CACHED = "agent_cache"


@dataclass
class Run:
    """What one run of all conversations came to."""

    kind: str
    outcomes: dict[str, Outcome]
    calls: int
    ran: dict[str, int]
    service_seconds: float
    waited: float
    seconds: float
    seconds_circling: float
    stale: list[str]
    metrics: dict[str, Any]

    @property
    def stopped(self) -> list[Outcome]:
        return [o for o in self.outcomes.values() if o.stopped]

    @property
    def ran_total(self) -> int:
        return sum(self.ran.values())


async def run_all(kind: str, pace: float = 1.0) -> Run:
    """Hold all conversations on a fresh shop.

    Args:
        kind: ``"no cache"``: plain tools, no session. ``"reads only"``: reads are cached and
            the writes not declared, as with a cache that knows nothing of writes.
            ``"agent_cache"``: the tools as they are decorated.
        pace: multiplies the shop's latency.
    """
    shop = Shop(pace=pace)
    configure(backend=MemoryBackend())
    reset_metrics()
    tools = [bare(t) if kind == PLAIN or (kind == ONLY_READS and t.name in WRITES) else t for t in desk_tools(shop)]
    everyone = [c for _, round_ in ROUNDS for c in round_]
    desk = Desk(shop, tools, everyone, sessions=kind != PLAIN)
    outcomes: dict[str, Outcome] = {}
    seconds = seconds_circling = 0.0
    for _, round_ in ROUNDS:
        done = await asyncio.gather(*(desk.talk(c) for c in round_))
        outcomes |= {o.conversation.name: o for o in done}
        if any(c.circles for c in round_):
            seconds_circling += max(o.seconds for o in done)
        else:
            seconds += max(o.seconds for o in done)
    shop.close()
    audit = desk.audit
    return Run(
        kind,
        outcomes,
        audit.calls,
        dict(shop.ran),
        shop.busy,
        audit.waited,
        seconds,
        seconds_circling,
        audit.stale,
        get_metrics(),
    )


def differing(one: Run, other: Run) -> list[str]:
    """The answers that are not the same in both runs, circling conversations aside."""
    lines = []
    for name, outcome in one.outcomes.items():
        if outcome.conversation.circles:
            continue
        mine, theirs = outcome.answers, other.outcomes[name].answers
        lines += [f"{name}: {a!r} / {b!r}" for a, b in zip(mine, theirs, strict=False) if a != b]
        if len(mine) != len(theirs):
            lines.append(f"{name}: {len(mine)} answers / {len(theirs)}")
    return lines


def table(runs: Sequence[Run]) -> str:
    """The figures of the runs side by side."""
    plain = runs[0]
    same = sum(len(o.answers) for o in plain.outcomes.values() if not o.conversation.circles)
    rows: list[tuple[str, list[str]]] = [
        ("", [r.kind for r in runs]),
        ("tool calls the model made", [f"{r.calls}" for r in runs]),
        ("tools really run", [f"{r.ran_total}" for r in runs]),
        ("calls answered from store", [f"{r.calls - r.ran_total}" for r in runs]),
        ("runs saved against no cache", [f"{plain.ran_total - r.ran_total}" for r in runs]),
        ("seconds of the shop's service", [f"{r.service_seconds:.2f}" for r in runs]),
        ("seconds waited for tools", [f"{r.waited:.2f}" for r in runs]),
        ("wall clock, honest talks", [f"{r.seconds:.2f}" for r in runs]),
        ("wall clock, the circling one", [f"{r.seconds_circling:.2f}" for r in runs]),
        ("loops stopped", [f"{len(r.stopped)}" for r in runs]),
        ("stale answers", [f"{len(r.stale)}" for r in runs]),
        (f"answers that differ, of {same}", [f"{len(differing(plain, r))}" for r in runs]),
    ]
    return "\n".join(f"{head:<32}" + "".join(f"{c:>14}" for c in cells) for head, cells in rows)


def problems(plain: Run, only_reads: Run, cached: Run) -> list[str]:
    """What must not be, in words; empty if all is well."""
    found = [f"differs: {line}" for line in differing(plain, cached)]
    found += [f"stale: {line}" for run in (plain, cached) for line in run.stale]
    for name, outcome in cached.outcomes.items():
        if outcome.conversation.circles and not outcome.stopped:
            found.append(f"{name}: the loop was not stopped")
        if outcome.stopped and not outcome.conversation.circles:
            found.append(f"{name}: honest work was stopped ({outcome.stopped})")
    if cached.ran_total >= plain.ran_total:
        found.append("nothing was saved")
    mine, theirs = (cached.outcomes[f"the account of {c}"].answers for c in ("gil", "hana"))
    if mine[:2] == theirs[:2]:
        found.append("two users got the same answer")
    if not only_reads.stale or not differing(plain, only_reads):
        found.append("the checker saw nothing wrong with a cache that knows no writes")
    return found


async def main(pace: float = 1.0) -> int:
    """Run, compare, print; the exit code."""
    await run_all(PLAIN, pace=0)  # imports and first calls are nobody's time
    rounds = [[await run_all(kind, pace) for kind in (PLAIN, ONLY_READS, CACHED)] for _ in range(2)]
    runs = [min(same, key=lambda r: r.seconds) for same in zip(*rounds, strict=True)]
    plain, _, cached = runs
    print(f"{sum(len(r) for _, r in ROUNDS)} conversations, twice on a fresh shop each; the faster time counts\n")
    print(table(runs))
    print(f"\n'{ONLY_READS}' is there for contrast: the reads are cached, the writes are not declared.")
    for outcome in plain.outcomes.values():
        if outcome.conversation.circles:
            name = outcome.conversation.name
            stop = cached.outcomes[name].stopped
            print(
                f"'{name}' is not compared: without the cache it goes on to the end of its "
                f"script\n  ({len(outcome.answers) - 1} times the same call), with it the session "
                f"stops it:\n  {stop}"
            )
    found = [line for three in rounds for line in problems(*three)]
    print("\n" + ("\n".join(found) if found else "Every answer is the same. None was stale."))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
