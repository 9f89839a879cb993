"""Six hours of a made-up support desk, the same at every run: what the screenshot in docs/images shows."""

from __future__ import annotations

import random
from collections.abc import Iterator

from agent_cache.events import Recorded
from agent_cache.model import CallEvent, InvalidationEvent, LoopEvent, Outcome, ToolCall
from agent_cache.reporting import report_html

START = 1_779_960_000.0
READS = {
    "get_customer": (0.85, 0.8, 0.004, ("update_customer",)),
    "search_orders": (0.62, 1.9, 0.011, ("place_order", "cancel_order")),
    "get_policy": (0.95, 0.4, 0.0, ()),
    "list_tickets": (0.5, 1.2, 0.006, ("close_ticket",)),
}
WRITES = {
    "update_customer": "customer:{id}",
    "place_order": "orders:{id}",
    "cancel_order": "orders:{id}",
    "close_ticket": "tickets",
}


def traffic() -> Iterator[Recorded]:
    chance = random.Random(7)
    for n in range(9_000):
        at = START + n * 2.4
        yield Recorded(at, _read(chance, n))
        if chance.random() < 0.03:
            tool = chance.choice(list(WRITES))
            yield Recorded(
                at, InvalidationEvent(tool, (), "global", "s", failed=chance.random() < 0.05, resource=WRITES[tool])
            )
    yield Recorded(START + 18_000, _repeat())
    yield Recorded(START + 19_000, _in_turn())


def _read(chance: random.Random, n: int) -> CallEvent:
    (tool,) = chance.choices(list(READS), [5, 3, 3, 2])
    likely, seconds, cost, writers = READS[tool]
    if chance.random() < likely * min(1.0, 0.3 + n / 2_500):
        took, age = seconds * chance.uniform(0.6, 1.6), chance.expovariate(1 / 200)
        return CallEvent(tool, tool, "hit", None, "s", age, 0.001, (), seconds_saved=took, cost_saved=cost)
    outcomes: list[Outcome] = ["miss", "stale", "stale", "expired", "coalesced"] if writers else ["miss"]
    outcome = chance.choice(outcomes)
    dropped_by = chance.choice(writers) if outcome == "stale" else None
    return CallEvent(tool, tool, outcome, None, "s", None, seconds, (), stored=True, dropped_by=dropped_by)


def _repeat() -> LoopEvent:
    arguments = {"state": "'open'"}
    calls = tuple(ToolCall("list_tickets", arguments, 4 + n, "[{'id': 311, 'title': 'Refund'}]") for n in range(5))
    hint = "list_tickets(state='open') has been called 5 times and its result has not changed. Use the result you have, or ask the user."
    return LoopEvent("list_tickets", arguments, "repeat", 1, 5, calls, 4, 8, hint, "run-0417")


def _in_turn() -> LoopEvent:
    pair = [("search_orders", "77fe01c2"), ("get_customer", "a81b220e")] * 4
    calls = tuple(ToolCall(tool, {"#": label}, 10 + n) for n, (tool, label) in enumerate(pair))
    return LoopEvent("search_orders", {"#": "77fe01c2"}, "alternation", 2, 4, calls, 10, 17, "", "run-0422")


def page() -> str:
    return report_html(events=traffic(), currency="USD", sources=["events.jsonl"])
